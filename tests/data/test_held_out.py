from __future__ import annotations

from pathlib import Path

import pytest

from everyframe.data.held_out import half_of, seen_note
from everyframe.data.layout import VideoRef
from everyframe.errors import InputError


def videos(*names: str) -> list[VideoRef]:
    return [VideoRef(name, ()) for name in names]


def test_halves_are_stretches_of_the_names_in_order() -> None:
    five = videos("e", "a", "d", "b", "c")
    first, second = half_of(five, "first"), half_of(five, "second")
    assert [video.name for video in first] == ["a", "b", "c"]
    assert [video.name for video in second] == ["d", "e"]
    with pytest.raises(InputError, match="--half first: expected two videos or more to divide, came 1"):
        half_of(videos("a"), "first")


def test_a_choice_on_videos_that_are_scored_is_told() -> None:
    chosen = ("tau 0.4", "vspw:/data, val (first half)", ("a", "b"))
    assert seen_note(*chosen, "vspw:/data", videos("c", "d")) == ""
    assert seen_note(*chosen, "vspw:/other", videos("a", "b")) == ""  # videos of one name are not one video
    told = seen_note(*chosen, "vspw:/data", videos("b", "c"))
    assert told.startswith("tau 0.4 was chosen on 1 of the 2 videos that are scored here: the figures are an upper")


def test_a_bare_path_is_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for scored in ("mine", "./mine", "folder:mine", str(tmp_path / "mine")):
        told = seen_note("tau 0.4", f"folder:{tmp_path / 'mine'}, val", ("a",), scored, videos("a"))
        assert "chosen on 1 of the 1 videos" in told, scored
    assert seen_note("tau 0.4", f"folder:{tmp_path / 'mine'}, val", ("a",), "other", videos("a")) == ""
