"""Clips of partly labelled videos: right frames, right labels, the same in every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from everyframe.data.budget import apply_budget
from everyframe.data.dataset import ClipDataset
from everyframe.data.layout import Split
from everyframe.data.layouts import load_split
from everyframe.data.photometric import Photometric
from everyframe.data.reading import read_frames
from everyframe.data.sampling import ClipSampling
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.data.transforms import Geometry
from everyframe.errors import InputError
from everyframe.frames import IGNORE, Clip, Role

VIDEOS = SyntheticVideos(3, 8, (48, 64))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = write(VIDEOS, tmp_path_factory.mktemp("vspw"), "vspw", labelled="all")
    return load_split(f"vspw:{root}", "train")


def equal(a: Clip, b: Clip) -> bool:
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        and a.videos == b.videos
    )


def test_clip_without_augmentation_holds_the_frames_and_labels_of_its_indices(split: Split) -> None:
    videos, space = split
    data = ClipDataset(videos, space, ClipSampling((-2, 2), "far_end"))
    assert len(data) == 3
    clip = data[1]
    assert clip.videos == (VIDEOS[1].name,)
    assert clip.roles == (Role.REFERENCE, Role.ADJACENT, Role.QUERY, Role.ADJACENT)
    assert clip.images.shape == (4, 3, 48, 64)
    assert clip.labelled.all()
    for t, index in enumerate(clip.indices.tolist()):
        assert np.array_equal(clip.labels[t].numpy(), VIDEOS[1].labels(index))
        assert (clip.images[t].int() - VIDEOS[1].image(index).int()).abs().float().mean() < 8  # JPEG


def test_labels_outside_the_budget_stay_hidden(split: Split) -> None:
    videos, space = split
    data = ClipDataset(apply_budget(videos, 1), space, ClipSampling((-1, 1), "first"))
    for i in range(3):
        clip = data[i]
        query = clip.indices[2]
        for t, index in enumerate(clip.indices.tolist()):
            assert bool(clip.labelled[t]) == (index == query)
            assert bool((clip.labels[t] == 255).all()) == (index != query)


def test_unlabelled_queries_never_meet_the_labelled_frame(split: Split) -> None:
    videos, space = split
    budget = apply_budget(videos, 1)
    data = ClipDataset(budget, space, ClipSampling((), None), which="unlabelled")
    drawn = {int(data[epoch, 0].indices[0]) for epoch in range(60)}
    assert drawn == set(range(8)) - set(budget[0].labelled)
    assert not data[0, 0].labelled.any()


def test_a_clip_depends_on_seed_epoch_and_position_only(split: Split) -> None:
    videos, space = split

    def make(seed: int) -> ClipDataset:
        return ClipDataset(videos, space, geometry=Geometry(32), photometric=Photometric(), seed=seed)

    first = make(0)
    wanted = first[5, 2]
    first[0, 0]
    assert equal(first[5, 2], wanted)
    assert equal(make(0)[5, 2], wanted)
    assert not equal(make(0)[6, 2], wanted)
    assert not equal(make(1)[5, 2], wanted)
    assert equal(first[1], first[0, 1])


def test_every_frame_comes_once_per_epoch(split: Split) -> None:
    videos, space = split
    data = ClipDataset(videos, space, ClipSampling((), None), per="frame")
    assert [(data[i].videos[0], int(data[i].indices[0])) for i in range(len(data))] == [
        (video.name, t) for video in videos for t in range(8)
    ]


def test_clips_of_one_data_set_stack(split: Split) -> None:
    videos, space = split
    data = ClipDataset(videos, space, geometry=Geometry(32), photometric=Photometric())
    batch = Clip.stack([data[i] for i in range(3)])
    assert batch.images.shape == (3, 4, 3, 32, 32)
    assert batch.query_labels.shape == (3, 1, 32, 32)


def test_still_images_are_videos_of_one_frame(tmp_path: Path) -> None:
    root = write(VIDEOS, tmp_path, "images", labelled=[3])
    videos, space = load_split(f"images:{root}", "train")
    clip = ClipDataset(videos, space)[0]
    assert clip.indices.tolist() == [0, 0, 0, 0]
    assert clip.labelled.tolist() == [False, False, True, False], "it counts once in the losses"
    assert (clip.labels[[0, 1, 3]] == IGNORE).all()
    assert np.array_equal(clip.labels[2].numpy(), VIDEOS[0].labels(3))


def test_video_files_are_read_directly(tmp_path: Path) -> None:
    root = write(VIDEOS[:1], tmp_path, "folder", labelled="one")
    videos, space = load_split(f"folder:{root}", "train")
    clip = ClipDataset(videos, space, ClipSampling((-1,), "far_end"))[0]
    assert clip.indices.tolist() == [0, 3, 4]
    assert clip.labelled.tolist() == [False, False, True]
    for t, index in enumerate(clip.indices.tolist()):
        assert (clip.images[t].int() - VIDEOS[0].image(index).int()).abs().float().mean() < 12


def test_a_broken_frame_names_its_file(tmp_path: Path) -> None:
    root = write(VIDEOS[:1], tmp_path, "frames", labelled=[0])
    broken = next(root.glob("videos/*/000000.jpg"))
    broken.write_bytes(broken.read_bytes()[:200])
    videos, space = load_split(f"folder:{root}", "train")
    with pytest.raises(InputError, match=r"000000\.jpg"):
        ClipDataset(videos, space, ClipSampling((), None))[0]


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    root = write(VIDEOS[:1], tmp_path, "frames", labelled=[0])
    write(SyntheticVideos(1, 2, (24, 32)), tmp_path / "other", "frames")
    small = next((tmp_path / "other").glob("videos/*/000001.jpg"))
    (next(root.glob("videos/*/000007.jpg"))).write_bytes(small.read_bytes())
    videos, space = load_split(f"folder:{root}", "train")
    with pytest.raises(InputError, match="one size"):
        ClipDataset(videos, space, ClipSampling((), "far_end"))[0]


def test_no_label_at_all_is_refused(split: Split) -> None:
    videos, space = split
    with pytest.raises(InputError, match="3 videos with 0 labelled and 24 frames"):
        ClipDataset([video.keep_labels(set()) for video in videos], space)


def test_positions_outside_end_an_iteration(split: Split) -> None:
    with pytest.raises(IndexError):
        ClipDataset(*split)[3]


def test_a_reference_frame_may_be_cut_by_a_draw_of_its_own(split: Split) -> None:
    """All else stays as it is, and labels of the reference are cut as its picture is."""
    videos, space = split
    differ = 0
    for position in range(len(videos)):
        same, own = (
            ClipDataset(videos, space, geometry=Geometry(16, (1, 1), flip=0), reference_crop=crop)[position]
            for crop in ("same", "own")
        )
        others = [t for t, role in enumerate(same.roles) if role is not Role.REFERENCE]
        (reference,) = set(range(len(same.roles))) - set(others)
        assert torch.equal(same.images[others], own.images[others])
        assert torch.equal(same.labels, own.labels) == torch.equal(same.labels[reference], own.labels[reference])
        differ += not torch.equal(same.images[reference], own.images[reference])
        whole = read_frames(videos[position], [int(own.indices[reference])])[0].image
        windows = whole.unfold(1, 16, 1).unfold(2, 16, 1)  # 3 rows columns 16 16
        assert (windows == own.images[reference][:, None, None]).all(dim=(0, 3, 4)).any(), "a window of that frame"
    assert differ > 0
    with pytest.raises(InputError, match="expected one of same, own, came 'other'"):
        ClipDataset(videos, space, reference_crop="other")  # type: ignore[arg-type]
