"""A layout of one's own that breaks the contract is told so, before it trains on no labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doctor_sets import ids, noise, save
from rich.console import Console

from everyframe.cli.__main__ import main
from everyframe.data.check_report import print_report
from everyframe.data.doctor import check
from everyframe.data.layout import FrameRef, VideoRef, check_split
from everyframe.data.layouts import LAYOUTS, SPLITS, load_split, parse_spec
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("road", "car"), raw_to_train={1: 0, 2: 1})


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[VideoRef], Any]], str]:
    """Register layout `own`, which gives what a function makes of one good video, and return its spec."""
    for i in range(3):
        save(tmp_path / f"{i}.jpg", noise(i))
        save(tmp_path / f"{i}.png", ids(1, r0=2))
    frames = tuple(FrameRef(i, f"{i}", tmp_path / f"{i}.jpg", tmp_path / f"{i}.png") for i in range(3))

    def register(made: Callable[[VideoRef], Any]) -> str:
        monkeypatch.setitem(LAYOUTS, "own", lambda root, split: made(VideoRef(f"{split}0", frames)))
        monkeypatch.setitem(SPLITS, "own", lambda root: ["train", "val"])
        return f"own:{tmp_path}"

    return register


def numbered(video: VideoRef, first: int, step: int = 1) -> VideoRef:
    return replace(video, frames=tuple(replace(f, index=first + step * f.index) for f in video.frames))


def changed(video: VideoRef, **what: Any) -> VideoRef:
    return replace(video, frames=(video.frames[0], replace(video.frames[1], **what), video.frames[2]))


BROKEN: list[tuple[Callable[[VideoRef], Any], str]] = [
    (lambda v: ([numbered(v, 1)], SPACE), "video 'val0', frame '0': expected index 0, .* came 1; number the frames"),
    (lambda v: ([numbered(v, 0, 30)], SPACE), "video 'val0', frame '1': expected index 1, .* came 30"),
    (lambda v: ([v, v], SPACE), "videos of different names, 'val0' came twice"),
    (lambda v: ((x for x in [v]), SPACE), r"a list of videos, came generator; return list\(videos\)"),
    (lambda v: [v], r"expected \(videos, LabelSpace\), came list"),
    (lambda v: ([v], ("road", "car")), r"expected \(videos, LabelSpace\)"),
    (lambda v: ([v.frames], SPACE), "every video to be a VideoRef"),
    (lambda v: ([replace(v, frames=list(v.frames))], SPACE), "'val0': expected a tuple of frames, came list"),
    (lambda v: ([replace(v, frames=("a.jpg",))], SPACE), "position 0: expected a FrameRef, came 'a.jpg'"),
    (lambda v: ([changed(v, name="0")], SPACE), "'val0': expected frames of different names, .* '0' came twice"),
    (lambda v: ([changed(v, image="a.jpg")], SPACE), r"frame '1': expected image .* came str; write Path\('a.jpg'\)"),
    (lambda v: ([changed(v, label="a.png")], SPACE), r"frame '1': expected label .* came str; write Path\('a.png'\)"),
    (lambda v: ([changed(v, image=None)], SPACE), "frame '1': expected an image, or a video file"),
    (lambda v: ([replace(v, file="a.mp4")], SPACE), "'val0': expected file to be a pathlib.Path or None, came str"),
]


@pytest.mark.parametrize(("made", "expected"), BROKEN)
def test_what_breaks_the_contract_is_named(give: Any, made: Callable[[VideoRef], Any], expected: str) -> None:
    spec = give(made)
    with pytest.raises(InputError, match=expected) as error:
        load_split(spec, "val")
    assert str(error.value).startswith("layout own")
    report = check(spec, ["val"])
    assert not report.ok
    assert [finding.what for finding in report.errors] == [str(error.value)]


def test_a_good_one_is_fit_for_training(give: Any) -> None:
    spec = give(lambda video: ([video], SPACE))
    (video,), space = load_split(spec, "val")
    assert (video.labelled, space) == ((0, 1, 2), SPACE)
    assert not [finding for finding in check(spec).errors if "in two splits" not in finding.what]


def test_a_large_data_set_is_checked_in_moments() -> None:
    path = Path("a")
    videos = [
        VideoRef(f"{n}", tuple(FrameRef(i, f"{i}", path, path if i % 15 == 0 else None) for i in range(100)))
        for n in range(250)
    ]
    start = time.process_time()
    check_split((videos, SPACE), "own")
    assert time.process_time() - start < 1, "25,000 frames"


def test_a_layout_without_a_line_in_splits_says_so(
    give: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = give(lambda video: ([video], SPACE))
    monkeypatch.delitem(SPLITS, "own")
    report = check(spec)
    assert 'write SPLITS["own"] = lambda root: ["train", "val"]' in report.errors[0].what
    print_report(report, Console())
    assert main(["data", "check", spec]) == 1
    assert "everyframe.data.layouts.SPLITS" in capsys.readouterr().out
    assert check(spec, ["val"]).ok


def test_one_letter_is_a_layout_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="came layout 'x'"):
        parse_spec(f"x:{tmp_path}")
    monkeypatch.setitem(LAYOUTS, "x", LAYOUTS["folder"])
    assert parse_spec(f"x:{tmp_path}") == ("x", tmp_path)
