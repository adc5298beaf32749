"""Videos that cannot be labelled: named in the summary, and nothing of them on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inference.predictors import Remember, video
from prediction_jobs import interrupt_at, pictures

from everyframe.frames import Frame
from everyframe.io.sources import ArraySource
from everyframe.predict import predict

JOB_FILES = ["labels.json", "summary.json"]


def names(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*"))


@pytest.mark.parametrize("broken", ["file", "first picture", "no frames"])
def test_a_video_without_a_frame_leaves_no_folder_and_no_table(tmp_path: Path, broken: str) -> None:
    source = tmp_path / "street"
    if broken == "file":
        source = tmp_path / "street.mp4"
        source.write_bytes(b"no video")
    elif broken == "first picture":
        (pictures(source, 3) / "00000000.png").write_bytes(b"")
    else:
        source = ArraySource(iter(()), "street")
    good = pictures(tmp_path / "good", 2)
    summary = predict(Remember(), [source, good], tmp_path / "out", confidence=True)
    assert {result.name: (result.status, result.frames) for result in summary.videos} == {
        "street": ("failed", 0),
        "good": ("done", 2),
    }
    assert "expected" in str(summary.failed[0].error)
    assert not [name for name in names(tmp_path / "out") if "street" in name]
    assert predict(Remember(), [source], tmp_path / "alone").failed
    assert names(tmp_path / "alone") == JOB_FILES


def test_a_video_that_breaks_now_does_not_keep_half_of_its_earlier_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(Remember(), ArraySource(video(3), "street"), out, confidence=True)
    assert {"street", "street.confidence", "street.overlay.mp4", "street.areas.csv"} < set(names(out))
    predict(Remember(), ArraySource(iter(()), "street"), out)
    assert names(out) == JOB_FILES
    predict(Remember(), ArraySource(video(3), "street"), out, overlay=False, areas=False)
    predict(Remember(), ArraySource(video(2), "street"), out, labels=False, overlay=False)
    assert names(out) == sorted([*JOB_FILES, "street.areas.csv"]), (
        "what is not asked for now would describe other frames"
    )


def test_frames_that_change_their_size_are_named_in_the_summary(tmp_path: Path) -> None:
    clip = [*video(2), *video(2, (20, 30))[:1], *video(4)[3:]]
    clip = [Frame(frame.image, i, i / 15, f"shot_{i}") for i, frame in enumerate(clip)]
    summary = predict(Remember(), ArraySource(clip, "street"), tmp_path / "out")
    note = (
        "street: the size of the frames changes at frame shot_2 (48x32 to 30x20), and at 1 more; a model with a "
        "memory begins anew there, and the overlay video keeps the first size"
    )
    assert summary.videos[0].notes == [note]
    assert note in str(summary).splitlines()
    again = predict(Remember(), ArraySource(clip, "street"), tmp_path / "out", resume=True)
    assert again.frames == 0
    assert note in str(again).splitlines()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["videos"][0]["notes"] == [note]
    assert predict(Remember(), ArraySource(video(2), "same"), tmp_path / "out").videos[0].notes == []


def test_a_change_of_size_is_told_once_where_a_video_starts_over(tmp_path: Path) -> None:
    small, *rest = video(1, (20, 30)), *video(5)[1:]
    clip = ArraySource([*small, *rest], "street")
    with pytest.raises(KeyboardInterrupt):
        predict(Remember(), clip, tmp_path, checkpoint_every=1, on_frame=interrupt_at(4))
    (tmp_path / "street" / f"{rest[1].name}.png").unlink()
    (street,) = predict(Remember(), clip, tmp_path, resume=True).videos
    assert (street.labelled_now, len(street.notes)) == (5, 1)
