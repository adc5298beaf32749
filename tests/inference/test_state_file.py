from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from predictors import Seen

from everyframe.inference.state_file import UnsavableStateError, load_state, save_state, snapshot

CPU = torch.device("cpu")


@dataclass
class Kept:
    maps: list[torch.Tensor]
    name: str = "x"


def round_trip(tmp_path: Path, state: Any) -> Any:
    save_state(tmp_path / "state", snapshot(state), {"frames": 7, "size": [4, 5]})
    loaded, notes = load_state(tmp_path / "state", CPU)
    assert notes == {"frames": 7, "size": [4, 5]}
    return loaded


def test_nested_states_come_back(tmp_path: Path) -> None:
    half = torch.randn(2, 3).bfloat16()
    shared = torch.randn(6, 4)
    state = (None, Seen(shared, 3), {"a": [half, half.t()], 2: (shared[::2], True)}, Kept([torch.zeros(0)], "y"))
    none, seen, table, kept = round_trip(tmp_path, state)
    assert none is None
    assert isinstance(seen, Seen)
    assert torch.equal(seen.mean, shared)
    assert seen.count == 3
    assert table["a"][0].dtype == torch.bfloat16
    assert torch.equal(table["a"][1], half.t())
    assert torch.equal(table[2][0], shared[::2])
    assert table[2][1] is True
    assert isinstance(kept, Kept)
    assert kept.name == "y"
    assert round_trip(tmp_path, None) is None


def test_order_in_memory_comes_back(tmp_path: Path) -> None:
    tensor = torch.randn(1, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for saved in (tensor, tensor.contiguous(), torch.randn(2, 1, 4, 4)):
        loaded = round_trip(tmp_path, saved)
        assert torch.equal(loaded, saved)
        assert loaded.stride() == saved.stride()


def test_snapshot_is_a_copy(tmp_path: Path) -> None:
    tensor = torch.zeros(3)
    taken = snapshot((tensor,))
    tensor += 1
    save_state(tmp_path / "state", taken, {})
    assert torch.equal(load_state(tmp_path / "state", CPU)[0][0], torch.zeros(3))


def test_other_objects_are_refused() -> None:
    with pytest.raises(UnsavableStateError, match="deque"):
        snapshot((deque([torch.zeros(1)]),))


def test_a_file_cannot_name_any_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path / "state", snapshot(Seen(torch.zeros(1), 1)), {})
    data = (tmp_path / "state").read_bytes()
    for name in (b"subprocess:Popen", b"builtins:exec", b"nowhere:Nothing"):
        old = f"{Seen.__module__}:Seen".encode()
        changed = data.replace(old, name.ljust(len(old))[: max(len(old), len(name))])
        length = int.from_bytes(data[:8], "little") + len(changed) - len(data)
        (tmp_path / "other").write_bytes(length.to_bytes(8, "little") + changed[8:])
        with pytest.raises(ValueError, match="expected the state of a stream"):
            load_state(tmp_path / "other", CPU)
    monkeypatch.delitem(sys.modules, Seen.__module__)
    with pytest.raises(ValueError, match="expected the state of a stream"):
        load_state(tmp_path / "state", CPU)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"x" * 100):
        (tmp_path / "state").write_bytes(content)
        with pytest.raises(ValueError, match="expected the state of a stream"):
            load_state(tmp_path / "state", CPU)


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """What `writing` and `output` turn into one line; safetensors has an error of its own."""
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        save_state(tmp_path / "none" / "state", snapshot(torch.zeros(2)), {})
