"""The README's Python runs, its shell commands name verbs and options that exist, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from everyframe.cli.__main__ import VERBS
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.models.checkpoint import save
from everyframe.models.zoo import create_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `make demo` leaves behind, with an untrained model and short videos."""
    monkeypatch.chdir(tmp_path)
    videos = SyntheticVideos(2, frames=5, size=(48, 64), prefix="test_")
    write(videos, "demo/data", "folder", "test", labelled="one", truth="demo/truth")
    save(create_model("fcn-gru-tiny", videos.label_space), "demo/one-label/model")
    return tmp_path


def test_the_python_runs(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len([line for line in printed if line.endswith("of the picture is street")]) == 5
    assert "mIoU" in printed[-1]
    assert len(list((demo / "labels" / "test_001").glob("*.png"))) == 5
    assert (demo / "labels" / "test_001.overlay.mp4").stat().st_size > 0


def test_the_shell_commands_exist() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("everyframe ")]
    assert len(lines) >= 5
    for line in lines:
        _, verb, *rest = shlex.split(line, comments=True)
        assert verb in VERBS
        assert callable(import_module(f"everyframe.cli.{verb}").main)
        assert rest


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", "\n".join(blocks("bash")), flags=re.MULTILINE))
    assert named == {"demo", "test"}
    assert named <= targets


def test_the_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
