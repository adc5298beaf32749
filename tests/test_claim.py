"""A folder is one process's until it and all that it started are done."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everyframe.claim import claim
from everyframe.errors import InputError

fcntl = pytest.importorskip("fcntl")


def test_nobody_works_beside_it_nor_beside_a_command_that_it_left(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with claim(folder, "train") as held:
        with (
            pytest.raises(InputError, match=r"folder: another `everyframe train`.* is at work there"),
            claim(folder, "train"),
        ):
            pass
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held)
    with left, pytest.raises(InputError, match="is at work there"), claim(folder, "train"):
        pass
    with claim(folder, "train"):
        pass


def test_a_fork_does_not_keep_it(tmp_path: Path) -> None:
    """Workers of data loaders live on for seconds when their run is killed; resuming at once is no clash."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import multiprocessing, os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from everyframe.claim import claim\n"
        "fork = multiprocessing.get_context('fork')\n"
        "alive = fork.Event()\n"
        "with claim(Path(sys.argv[1]), 'train'):\n"
        "    fork.Process(target=lambda: alive.set() or time.sleep(20)).start()\n"
        "    alive.wait()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    folder = tmp_path / "folder"
    killed = subprocess.run([sys.executable, str(script), str(folder)], check=False, stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    with claim(folder, "train"):
        pass


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file lies where a folder is needed"), claim(tmp_path / "file", "train"):
        pass


def test_a_disk_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claim(tmp_path, "train") as held:
        assert held == ()
