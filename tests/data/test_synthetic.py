"""Synthetic videos: labels and flow are exact, and what is written is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from everyframe.data.layouts import load_split
from everyframe.data.reading import read_frames, read_labels
from everyframe.data.synthetic import SyntheticVideo, SyntheticVideos
from everyframe.data.synthetic_scene import AMBULANCE, MOVING_CAR, SKY, STOPPED_CAR, STREET, VAN, Surface
from everyframe.data.synthetic_write import CAMVID_NAMES, CITYSCAPES_NAMES, write
from everyframe.errors import InputError


def nearest(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Sample [H, W] at p + flow, nearest pixel; the plainest warp there is."""
    h, w = values.shape
    rows, columns = np.mgrid[:h, :w]
    y, x = np.rint(rows + flow[1]).astype(int), np.rint(columns + flow[0]).astype(int)
    return values[np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)]


def borders(shown: np.ndarray) -> np.ndarray:
    """Pixels with another surface above, below, left or right."""
    near = np.zeros(shown.shape, bool)
    rows, columns = shown[:-1] != shown[1:], shown[:, :-1] != shown[:, 1:]
    near[:-1] |= rows
    near[1:] |= rows
    near[:, :-1] |= columns
    near[:, 1:] |= columns
    return near


def test_same_seed_same_pixels_and_any_order() -> None:
    a, b = SyntheticVideos(2, 6, (48, 64)), SyntheticVideos(2, 6, (48, 64))
    later, first = a[1].image(4), a[1].image(0)
    assert torch.equal(b[1].image(0), first)
    assert torch.equal(b[1].image(4), later)
    assert not torch.equal(SyntheticVideos(2, 6, (48, 64), seed=1)[1].image(0), first)
    assert not torch.equal(a[0].image(0), first)
    assert [frame.name for frame in a[0]] == [f"{i:06d}" for i in range(6)]
    assert first.dtype == torch.uint8
    assert first.shape == (3, 48, 64)


@pytest.mark.parametrize("step", [1, -1, 5])
def test_flow_warps_labels_exactly_at_whole_pixels(step: int) -> None:
    for video in SyntheticVideos(3, 12, (96, 128), subpixel=False, pan=1.5):
        flow, valid = video.flow(6, 6 + step)
        assert np.array_equal(flow, np.rint(flow))
        assert np.abs(flow).max() >= 1
        warped = nearest(video.surfaces(6 + step), flow)
        assert np.array_equal(warped[valid], video.surfaces(6)[valid])
        assert np.array_equal(nearest(video.labels(6 + step), flow)[valid], video.labels(6)[valid])
        assert 0.75 < valid.mean() < 1


def test_pixels_that_flow_calls_covered_are_covered() -> None:
    """At whole pixels: invalid means outside, or that another surface shows at the target."""
    for video in SyntheticVideos(3, 12, (96, 128), subpixel=False, pan=1.5):
        flow, valid = video.flow(3, 7)
        rows, columns = np.mgrid[:96, :128]
        y, x = rows + flow[1], columns + flow[0]
        inside = (y >= 0) & (y <= 95) & (x >= 0) & (x <= 127)
        other = nearest(video.surfaces(7), flow) != video.surfaces(3)
        assert np.array_equal(~valid, ~inside | other)


@pytest.mark.parametrize("step", [1, -1])
def test_flow_at_fractions_of_a_pixel(step: int) -> None:
    """Rounding the target to a pixel can miss by half a pixel, at the borders of surfaces only."""
    wrong = []
    for video in SyntheticVideos(3, 12, (96, 128)):
        flow, valid = video.flow(6, 6 + step)
        miss = nearest(video.labels(6 + step), flow) != video.labels(6)
        wrong.append(miss[valid].mean())
        near = borders(video.surfaces(6)) | nearest(borders(video.surfaces(6 + step)), flow)
        assert not (miss & valid & ~near).any()
    assert np.mean(wrong) < 0.02


def test_forward_then_backward_comes_home() -> None:
    """flow(a, b) at p and flow(b, a) at the target cancel, up to the bilinear sampling of a smooth field."""
    video = SyntheticVideos(1, 12, (96, 128), seed=4)[0]
    there, valid = video.flow(5, 6)
    back, _ = video.flow(6, 5)
    same = valid & (nearest(video.surfaces(6), there) == video.surfaces(5))
    home = there + np.stack([nearest(back[0], there), nearest(back[1], there)])
    assert np.abs(home[:, same]).max() < 0.02  # zoom changes flow by less than this within half a pixel
    identity, all_valid = video.flow(5, 5)
    assert np.abs(identity).max() < 1e-4
    assert all_valid.all()


def test_pictures_follow_the_flow() -> None:
    """Warping the next picture by the flow explains this one far better than not warping it."""
    video = SyntheticVideos(1, 12, (96, 128), noise=0, flicker=0, pan=2.0)[0]
    now, later = (video.image(t).float().mean(0).numpy() for t in (5, 7))
    flow, valid = video.flow(5, 7)
    warped = np.abs(nearest(later, flow) - now)[valid].mean()
    assert warped < 0.5 * np.abs(later - now)[valid].mean()


def own_speed(video: SyntheticVideo, number: int) -> float:
    """Return the motion of a surface against the street, in pixels over the whole video, from the flow alone."""
    flow, _ = video.flow(4, 5)
    shown = video.surfaces(4)
    street = flow[0][video.labels(4) == STREET]
    return abs(float(flow[0][shown == number].mean() - street.mean()))


def test_cars_differ_by_motion_against_the_street_only() -> None:
    seen = {MOVING_CAR: 0, STOPPED_CAR: 0}
    for video in SyntheticVideos(6, 10, (96, 128), seed=2, zoom=0):
        labels, shown = video.labels(4), video.surfaces(4)
        for number in np.unique(shown[(labels == MOVING_CAR) | (labels == STOPPED_CAR)]):
            label = int(labels[shown == number][0])
            seen[label] += 1
            assert (own_speed(video, number) > 1) == (label == MOVING_CAR)
    assert min(seen.values()) >= 5


def vans(video: SyntheticVideo) -> list[Surface]:
    return [surface for surface in video._scene[1] if surface.label in (VAN, AMBULANCE)]


def test_vans_look_alike_until_the_sign_is_lit() -> None:
    """A van painted with an ambulance's arguments shows the same pixels, but for the lit frames."""
    plain, ambulance = (SyntheticVideo("v", 24, (96, 128), (7,), ambulances=lit) for lit in (False, True))
    assert {surface.label for surface in vans(plain)} == {VAN}
    assert {surface.label for surface in vans(ambulance)} == {AMBULANCE}
    signs = plain.signs
    assert signs == 3
    differs = [not torch.equal(plain.image(t), ambulance.image(t)) for t in range(24)]
    assert not any(differs[signs:-signs])
    assert any(differs[:signs])
    there = (plain.labels(12) == VAN) & (ambulance.labels(12) == AMBULANCE)
    assert there.sum() > 100
    assert np.array_equal(plain.labels(12)[~there], ambulance.labels(12)[~there])


def test_every_class_occurs_and_every_video_shows_a_van() -> None:
    videos = SyntheticVideos(6, 8, (96, 128))
    counts = sum(np.bincount(video.labels(4).ravel(), minlength=8) for video in videos)
    assert len(counts) == len(videos.label_space) == 8
    assert (counts > 0.005 * counts.sum()).all()
    for i, video in enumerate(videos):
        assert (video.labels(4) == (AMBULANCE if i % 2 else VAN)).sum() > 60


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (120, 90)])
def test_odd_and_tiny_sizes(size: tuple[int, int]) -> None:
    video = SyntheticVideos(1, 3, size)[0]
    assert video.image(2).shape == (3, *size)
    assert video.labels(0).shape == size
    assert video.flow(0, 2).flow.shape == (2, *size)


def test_a_video_of_one_frame() -> None:
    video = SyntheticVideos(1, 1, (24, 32))[0]
    assert video.image(0).shape == (3, 24, 32)
    assert len(list(video)) == 1


def test_no_videos_is_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        SyntheticVideos(0)


# -- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folder", "frames", "vspw"])
def test_written_videos_are_read_back(tmp_path: Path, layout: str) -> None:
    videos = SyntheticVideos(2, 6, (48, 64))
    write(videos, tmp_path / "data", layout, "train", labelled="one", truth=tmp_path / "truth")
    spec = "vspw" if layout == "vspw" else "folder"
    found, space = load_split(f"{spec}:{tmp_path / 'data'}", "train")
    assert space.names == videos.label_space.names
    assert [v.name for v in found] == [v.name for v in videos]
    assert [v.labelled for v in found] == [(3,), (3,)]
    full, _ = load_split(f"{spec}:{tmp_path / 'truth'}", "train")
    for ref, all_labels, video in zip(found, full, videos, strict=True):
        assert len(ref.frames) == 6
        assert (ref.file is not None) == (layout == "folder")
        assert np.array_equal(read_labels(ref, 3, space), video.labels(3))
        for t, frame in enumerate(read_frames(all_labels, range(6))):
            assert np.array_equal(read_labels(all_labels, t, space), video.labels(t))
            assert (frame.image.int() - video.image(t).int()).abs().float().mean() < 12
    colors = dict(zip(space.names, space.palette, strict=True))
    assert colors == dict(zip(videos.label_space.names, videos.label_space.palette, strict=True))


def standing_for(video: SyntheticVideo, index: int, names: tuple[str, ...]) -> list[str]:
    return [names[i] for i in np.unique(video.labels(index))]


def test_camvid(tmp_path: Path) -> None:
    videos = SyntheticVideos(2, 5, (48, 64))
    write(videos, tmp_path, "camvid", "train", labelled=[0, 4])
    found, space = load_split(f"camvid:{tmp_path}", "train")
    assert [v.labelled for v in found] == [(0, 4), (0, 4)]
    shown = np.unique(read_labels(found[0], 4, space))
    assert {space.names[i] for i in shown} == set(standing_for(videos[0], 4, CAMVID_NAMES))
    assert torch.equal(read_frames(found[1], [2])[0].image, videos[1].image(2))  # PNG loses nothing


def test_cityscapes(tmp_path: Path) -> None:
    videos = SyntheticVideos(2, 30, (48, 64))
    write(videos, tmp_path, "cityscapes", "val", labelled="one")
    found, space = load_split(f"cityscapes_sequence:{tmp_path}", "val")
    assert [len(v.frames) for v in found] == [30, 30]
    assert [v.labelled for v in found] == [(19,), (19,)]
    shown = np.unique(read_labels(found[1], 19, space))
    assert {space.names[i] for i in shown} == set(standing_for(videos[1], 19, CITYSCAPES_NAMES))
    stills, _ = load_split(f"cityscapes:{tmp_path}", "val")
    assert [v.labelled for v in stills] == [(0,), (0,)]


def test_images(tmp_path: Path) -> None:
    videos = SyntheticVideos(2, 4, (48, 64))
    write(videos, tmp_path, "images", "train", labelled=[1, 2])
    found, space = load_split(f"images:{tmp_path}", "train")
    assert len(found) == 4
    assert all(len(v.frames) == 1 for v in found)
    assert np.array_equal(read_labels(found[0], 0, space), videos[0].labels(1))


def test_two_splits_share_a_root_and_truth_is_not_written_through(tmp_path: Path) -> None:
    train, val = SyntheticVideos(2, 4, (48, 64), seed=0), SyntheticVideos(1, 4, (48, 64), seed=1)
    write(train, tmp_path / "data", labelled="one", truth=tmp_path / "truth")
    write(val, tmp_path / "data", split="val")
    assert len(load_split(f"folder:{tmp_path / 'data'}", "train")[0]) == 2
    assert load_split(f"folder:{tmp_path / 'data'}", "val")[0][0].labelled == (0, 1, 2, 3)
    before = (tmp_path / "truth/videos/street0_000.mp4").read_bytes()
    write(SyntheticVideos(1, 4, (48, 64), seed=9, prefix="street0_"), tmp_path / "data")
    assert (tmp_path / "truth/videos/street0_000.mp4").read_bytes() == before


def test_wrong_layout_and_frames_are_refused(tmp_path: Path) -> None:
    videos = SyntheticVideos(1, 4, (24, 32))
    with pytest.raises(InputError, match="vspw"):
        write(videos, tmp_path, "coco")
    with pytest.raises(InputError, match=r"0\.\.3"):
        write(videos, tmp_path, "vspw", labelled=[4])


def test_sky_stands_still() -> None:
    video = SyntheticVideos(1, 6, (96, 128), pan=2.0)[0]
    flow, _ = video.flow(0, 3)
    assert (flow[:, video.labels(0) == SKY] == 0).all()
