"""Offline prediction end to end: what `predict`, `stream` and `evaluate` write equals a clip around every frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.predictors import Remember, video
from PIL import Image

from everyframe.data.sampling import ClipSampling
from everyframe.errors import InputError
from everyframe.evaluate import evaluate
from everyframe.frames import Frame
from everyframe.inference.ensemble import Ensemble
from everyframe.inference.labelmap import label_map
from everyframe.inference.lookahead import last_frame
from everyframe.inference.members import LiveMember
from everyframe.inference.stream import Stream
from everyframe.io.label_png import read_label
from everyframe.io.sources import ArraySource, CameraSource, open_source
from everyframe.io.video import VideoReader, VideoWriter
from everyframe.labels import LabelSpace
from everyframe.models.offline import Offline
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model
from everyframe.predict import predict, stream, with_views

SPACE = LabelSpace(("a", "b", "c"))
FRAMES = 14


def build(adjacent: tuple[int, ...] = (-3, 2), context: str = "reference") -> Segmenter:
    torch.manual_seed(0)
    options = {"adjacent": adjacent, "context": context}
    shape = {"backbone": {"width": 8, "stem_width": 8}, "head": {"width": 16, "key_width": 8}}
    return create_model("ssltm-tiny", SPACE, temporal=options, **shape).eval()


def clip_logits(model: Segmenter, clip: list[Frame], flip: bool = False) -> list[torch.Tensor]:
    """The brute force: a test clip around each frame, all of its frames encoded anew."""
    sampling = ClipSampling(model.temporal.adjacent, "first" if model.temporal.reference else None)
    frames = torch.stack([frame.image for frame in clip])
    frames = frames.flip(-1) if flip else frames
    picked = [sampling.test(len(clip), q, offline=True) for q in range(len(clip))]
    with torch.no_grad():
        logits = [model(frames[list(c.indices)][None], c.roles).logits[0] for c in picked]
    return [x.flip(-1) for x in logits] if flip else logits


def maps(logits: list[torch.Tensor], size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    return [label_map(x, size)[0].numpy() for x in logits]


def differ(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return float(np.mean([(a != b).mean() for a, b in zip(ours, theirs, strict=True)]))


def pictures(folder: Path, clip: list[Frame]) -> Path:
    folder.mkdir(parents=True)
    for frame in clip:
        Image.fromarray(frame.image.permute(1, 2, 0).numpy()).save(folder / f"{frame.name}.png")
    return folder


def tree(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.png"))}


@pytest.mark.parametrize("context", ["reference", "none"])
@pytest.mark.parametrize("frames", [1, 2, FRAMES])
def test_labels_equal_those_of_clips(context: str, frames: int) -> None:
    model, clip = build(context=context), video(frames)
    got = list(stream(model, clip, offline=True))
    assert [frame.index for frame, _ in got] == list(range(frames))
    assert differ([labels for _, labels in got], maps(clip_logits(model, clip))) < 1e-3
    assert frames < 3 or differ([labels for _, labels in got], [x for _, x in stream(model, clip)]) > 0


def test_views_nest_around_it() -> None:
    model, clip = build(), video(FRAMES)
    mean = [
        (a.softmax(1) + b.softmax(1)).log()
        for a, b in zip(clip_logits(model, clip), clip_logits(model, clip, flip=True), strict=True)
    ]
    got = [labels for _, labels in stream(model, clip, offline=True, flip=True)]
    assert differ(got, maps(mean)) < 1e-3
    # Windows as large as the frame, and a scale of 1, change nothing.
    got = [labels for _, labels in stream(model, clip, offline=True, window=64, scales=(1.0,))]
    assert differ(got, maps(clip_logits(model, clip))) < 1e-3
    assert with_views(model, offline=True, window=16, stride=8, scales=(0.5, 1.0), flip=True).lookahead == 2


def test_a_frame_waits_no_longer_than_it_must() -> None:
    model, read = build(context="none"), []

    def frames():
        for frame in video(8):
            read.append(frame.index)
            yield frame

    feed = stream(model, frames(), offline=True)
    next(feed)
    assert len(read) <= 3 + 1 + 5  # the lookahead, one on the way, and what is read ahead in the queue
    assert [frame.index for frame, _ in feed] == list(range(1, 8))


@pytest.mark.parametrize("stop", [1, 5, 12, 13])
def test_interrupted_and_resumed_gives_the_same_files(tmp_path: Path, stop: int) -> None:
    folder, model = pictures(tmp_path / "shot", video(FRAMES)), build()

    def interrupt(name: str, frames: int, length: int | None) -> None:
        if frames == stop:
            raise KeyboardInterrupt

    options = {"offline": True, "overlay": False, "checkpoint_every": 2, "smooth": 0.3}
    with pytest.raises(KeyboardInterrupt):
        predict(model, folder, tmp_path / "out", on_frame=interrupt, **options)
    summary = predict(model, folder, tmp_path / "out", resume=True, **options)
    assert summary.frames == FRAMES - min(stop - stop % 2, 12), "goes on from the last record of the state"
    predict(model, folder, tmp_path / "whole", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert len(tree(tmp_path / "out")) == FRAMES


def test_a_change_of_size_starts_anew(tmp_path: Path) -> None:
    model, clip, other = build(), video(6), video(5, (24, 40), seed=1)
    got = [labels for _, labels in stream(model, [*clip, *other], offline=True)]
    assert [labels.shape for labels in got] == [(32, 48)] * 6 + [(24, 40)] * 5
    assert differ(got[6:], maps(clip_logits(model, other), (24, 40))) < 1e-3
    # The last frame has another size than the first ones: frame 0 is their reference.
    no_end = build()
    sampling = ClipSampling(no_end.temporal.adjacent, "first")
    frames = torch.stack([frame.image for frame in clip])
    picked = [sampling.test(6, q) for q in range(6)]
    with torch.no_grad():
        want = [no_end(frames[list(c.indices)][None], c.roles).logits[0] for c in picked]
    assert differ(got[:6], maps(want)) < 1e-3


def test_summary_says_what_it_did(tmp_path: Path) -> None:
    clip = video(4)
    summary = predict(build(), ArraySource(clip, "shot"), tmp_path, offline=True, overlay=False)
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["settings"]["offline"] is True
    (note,) = record["notes"]
    assert "the 2 frames after it" in note
    assert "the first 10 frames take the last one as reference" in note
    assert "8 frames are kept" in note  # 3 behind, this, 2 ahead, the first and the last
    assert note in str(summary)
    plain = predict(build(), ArraySource(clip, "shot"), tmp_path, overlay=False)
    assert plain.notes == []
    assert "offline" not in plain.settings


def test_live_sources_are_refused_where_the_end_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CameraSource, "__iter__", lambda self: iter(video(5)))
    with pytest.raises(InputError, match=r"needs the last frame of the video.*without --offline"):
        list(stream(build(), CameraSource(0), offline=True))
    with pytest.raises(InputError, match="whose end is not known"):
        list(stream(build(), (frame for frame in video(3)), offline=True))
    assert len(list(stream(build(context="none"), CameraSource(0), offline=True))) == 5
    summary = predict(build(), CameraSource(0), tmp_path, offline=True)
    assert "needs the last frame" in str(summary.failed[0].error)


def test_models_that_cannot_look_ahead_are_refused() -> None:
    with pytest.raises(InputError, match="fixed distances, such as SSLTM or TCB, came Remember"):
        with_views(Remember(), offline=True)
    with pytest.raises(InputError, match="came one that sees each frame alone"):
        with_views(create_model("fcn-tiny", SPACE), offline=True)
    offline = Offline(build())
    for one_by_one in (lambda: Stream(offline).step(video(1)[0]), lambda: LiveMember("a", offline)):
        with pytest.raises(InputError, match="answers each frame at once"):
            one_by_one()
    with pytest.raises(InputError, match="equally far ahead"):
        Ensemble([offline, build()])
    assert Ensemble([offline, Offline(build())]).lookahead == 2


def test_last_frames(tmp_path: Path) -> None:
    clip = video(12)
    with VideoWriter(tmp_path / "whole.mp4", (32, 48), Fraction(10)) as writer:
        for frame in clip:
            writer.write(frame.image)
    read: Callable[[object], Frame] = lambda what: last_frame(open_source(what))  # noqa: E731
    decoded = list(VideoReader(tmp_path / "whole.mp4"))
    assert torch.equal(read(tmp_path / "whole.mp4").image, decoded[-1].image)
    got = read(pictures(tmp_path / "shot", clip))
    assert (got.name, got.index) == (clip[-1].name, 11)
    assert torch.equal(got.image, clip[-1].image)
    assert torch.equal(read(clip).image, clip[-1].image)
    arrays = np.stack([frame.image.permute(1, 2, 0).numpy() for frame in clip])
    assert torch.equal(read(arrays).image, clip[-1].image)
    with VideoWriter(tmp_path / "cut.mkv", (32, 48), Fraction(10)) as writer:
        for frame in video(40):
            writer.write(frame.image)
    whole = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    reader, frames = iter(VideoReader(tmp_path / "cut.mkv")), []
    with suppress(InputError):  # raised after the last frame that decodes
        frames.extend(iter(lambda: next(reader), None))
    assert 2 < len(frames) < 40
    assert torch.equal(read(tmp_path / "cut.mkv").image, frames[-1].image)


def test_evaluate_measures_it(tmp_path: Path) -> None:
    clip, model = video(FRAMES), build()
    for frame, labels in zip(clip, maps(clip_logits(model, clip)), strict=True):
        for kind, pixels in (("origin", frame.image.permute(1, 2, 0).numpy()), ("mask", labels + 1)):
            path = tmp_path / "data" / "data" / "v" / kind / f"{frame.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "data" / "val.txt").write_text("v\n")
    (tmp_path / "data" / "classes.json").write_text('{"0": "void", "1": "a", "2": "b", "3": "c"}')
    data = f"vspw:{tmp_path / 'data'}"
    options = {"flow": None, "bootstrap": 0, "device": "cpu"}
    results = evaluate(data=data, model=model, offline=True, save=tmp_path / "maps", **options)
    assert results.score("pixel accuracy").value > 0.999
    assert any("offline" in note for note in results.notes)
    assert read_label(tmp_path / "maps" / "v" / f"{clip[3].name}.png", SPACE, (32, 48)).shape == (32, 48)
    assert evaluate(data=data, model=model, **options).score("pixel accuracy").value < 0.999
