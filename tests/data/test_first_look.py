"""Masks that validation would stumble over are found before training begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.data.first_look import look_at_masks
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("road", "car"))
FRAMES = 30


@pytest.fixture
def video(tmp_path: Path) -> VideoRef:
    """30 frames of 24x16 pixels, all but the last labelled."""
    frames = []
    for i in range(FRAMES):
        image, label = tmp_path / f"{i}.jpg", tmp_path / f"{i}.png"
        Image.new("RGB", (24, 16), (8 * i, 0, 0)).save(image)
        Image.fromarray(np.full((16, 24), i % 2, np.uint8)).save(label)
        frames.append(FrameRef(i, str(i), image, label if i < FRAMES - 1 else None))
    return VideoRef("drive", tuple(frames))


def label(video: VideoRef, index: int) -> Path:
    path = video.frames[index].label
    assert path is not None
    return path


def test_all_of_a_small_set_are_read_and_a_sample_of_a_large_one_is_said(video: VideoRef) -> None:
    assert look_at_masks([video], SPACE, "validation") == ""
    assert look_at_masks([], SPACE, "validation") == ""
    assert look_at_masks([video], SPACE, "validation", opened=20, read=5) == (
        "validation masks: 20 of 29 opened, 5 read, all sound; `everyframe data check` reads all of them"
    )


@pytest.mark.parametrize("index", [0, 13, 28])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "found no file"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "expected a picture"),
        (
            lambda path: Image.new("L", (16, 24)).save(path),
            "expected a mask of 24x16 pixels like its frame, came 16x24",
        ),
        (lambda path: Image.new("L", (24, 16), 9).save(path), "9"),
    ],
)
def test_a_mask_that_validation_would_refuse_is_named(video: VideoRef, index: int, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    spoil(label(video, index))
    with pytest.raises(InputError, match=said) as refused:
        look_at_masks([video], SPACE, "validation")
    assert str(label(video, index)) in str(refused.value)


def test_a_wrong_size_is_found_by_headers_alone(video: VideoRef) -> None:
    Image.new("L", (23, 16)).save(label(video, 13))
    with pytest.raises(InputError, match=r"13\.png: expected a mask of 24x16 pixels like its frame, came 23x16"):
        look_at_masks([video], SPACE, "validation", read=2)


def test_a_header_of_too_many_pixels_is_named(video: VideoRef, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (240, 160)).save(label(video, 13))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16)
    with pytest.raises(InputError, match=r"13\.png: expected a picture, came .* decompression bomb"):
        look_at_masks([video], SPACE, "validation", read=2)


def test_frames_that_exif_turns_and_sizes_that_are_asked_for_count(video: VideoRef) -> None:
    exif = Image.Exif()
    exif[274] = 6
    lying = video.frames[3].image
    assert lying is not None
    Image.new("RGB", (16, 24)).save(lying, exif=exif)
    assert look_at_masks([video], SPACE, "validation", read=2).endswith("reads all of them")
    Image.new("L", (48, 32)).save(label(video, 5))
    small = VideoRef(video.name, video.frames, height=8)
    assert look_at_masks([small], SPACE, "validation") == ""


@pytest.mark.parametrize("read", [200, 2])
def test_png_frames_that_exif_turns_fit_their_masks(video: VideoRef, tmp_path: Path, read: int) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for frame in video.frames:
        assert frame.image is not None
        Image.new("RGB", (16, 24)).save(frame.image, "PNG", exif=exif)
    assert (look_at_masks([video], SPACE, "validation", read=read) == "") == (read == 200)
