from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from everyframe.data.budget import apply_budget, choose, manifest, write_manifest
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.errors import InputError


def video(name: str, frames: int, labelled: range | list[int]) -> VideoRef:
    refs = (FrameRef(i, f"f{i}", Path(f"{i}.jpg"), Path(f"{i}.png") if i in labelled else None) for i in range(frames))
    return VideoRef(name, tuple(refs))


@pytest.fixture
def videos() -> list[VideoRef]:
    return [video("a", 30, range(30)), video("b", 30, [3, 9, 20]), video("c", 5, []), video("d", 1, [0])]


def kept(videos: list[VideoRef]) -> list[list[int]]:
    return [list(video.labelled) for video in videos]


def test_hash_is_md5_of_the_name(videos: list[VideoRef]) -> None:
    a, b = (int(hashlib.md5(name.encode()).hexdigest(), 16) for name in "ab")
    assert kept(apply_budget(videos, 1)) == [[a % 30], [[3, 9, 20][b % 3]], [], [0]]
    assert kept(apply_budget(videos, "1")) == kept(apply_budget(videos, 1, seed=7))


@pytest.mark.parametrize(("which", "expected"), [("first", [[0], [3], [], [0]]), ("middle", [[15], [9], [], [0]])])
def test_first_and_middle(videos: list[VideoRef], which: str, expected: list[list[int]]) -> None:
    assert kept(apply_budget(videos, 1, which=which)) == expected


def test_random_depends_on_seed_and_name_only(videos: list[VideoRef]) -> None:
    chosen = kept(apply_budget(videos, 1, which="random", seed=3))
    assert kept(apply_budget(videos[::-1], 1, which="random", seed=3)) == chosen[::-1]
    many = Counter(choose(range(4), 1, "random", "a", seed)[0] for seed in range(400))
    assert set(many) == {0, 1, 2, 3}
    assert min(many.values()) > 60  # 100 expected of each; 60 lies more than four standard deviations below


def test_hash_spreads_over_frames() -> None:
    many = Counter(choose(range(4), 1, "hash", f"video {i}")[0] for i in range(400))
    assert min(many.values()) > 60


@pytest.mark.parametrize("which", ["hash", "first", "middle", "random"])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 30, 31])
def test_n_per_video(videos: list[VideoRef], which: str, count: int) -> None:
    for before, after in zip(videos, apply_budget(videos, count, which=which), strict=True):
        assert len(after.labelled) == min(count, len(before.labelled))
        assert set(after.labelled) <= set(before.labelled)
        assert len(after.frames) == len(before.frames)


def test_several_labels_are_evenly_spaced(videos: list[VideoRef]) -> None:
    assert kept(apply_budget(videos, 3, which="middle"))[0] == [5, 15, 25]
    hashed = kept(apply_budget(videos, 3))[0]
    assert {(b - a) % 30 for a, b in zip(hashed, [*hashed[1:], hashed[0]], strict=True)} == {10}


def test_share(videos: list[VideoRef]) -> None:
    # 30 // 8 = 3 of 30 labels at (2i + 1) * 30 // 6; one of three; one of one.
    assert kept(apply_budget(videos, "1/8")) == [[5, 15, 25], [9], [], [0]]
    assert kept(apply_budget(videos, " 2 / 3 "))[1] == [3, 20]
    assert apply_budget(videos, "1/1") == videos


def test_all(videos: list[VideoRef]) -> None:
    assert apply_budget(videos, "all") == videos


def test_manifest_round_trip(videos: list[VideoRef], tmp_path: Path) -> None:
    chosen = apply_budget(videos, 2, which="random", seed=1)
    write_manifest(chosen, tmp_path / "m.json")
    assert apply_budget(videos, str(tmp_path / "m.json")) == chosen
    write_manifest(apply_budget(videos, tmp_path / "m.json"), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "m.json").read_bytes()
    assert json.loads((tmp_path / "m.json").read_text())["labels"] == 5


def test_manifest_by_hand(videos: list[VideoRef], tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({**manifest([]), "videos": {"b": ["f20"]}}))
    assert kept(apply_budget(videos, str(path))) == [[], [20], [], []]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"videos": {"x": ["f0"]}}, "came x .1 unknown"),
        ({"videos": {"b": ["f3", "f4"]}}, "labelled frames of video b, came f4"),
        ({"format": "2"}, "expected format"),
        ({"videos": 3}, "as everyframe writes it"),
    ],
)
def test_manifest_that_does_not_fit(
    videos: list[VideoRef], tmp_path: Path, content: dict[str, object], message: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({**manifest([]), **content}))
    with pytest.raises(InputError, match=rf"m\.json: .*{message}"):
        apply_budget(videos, str(path))


def test_manifest_missing_or_not_writable(videos: list[VideoRef], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        apply_budget(videos, str(tmp_path / "m.json"))
    with pytest.raises(InputError, match="expected to write here, cannot"):
        write_manifest(videos, tmp_path / "no folder" / "m.json")


@pytest.mark.parametrize("budget", [0, -1, "0", "3/2", "1/0", "0/8", "1.5", "none", ""])
def test_impossible_budgets(videos: list[VideoRef], budget: str | int) -> None:
    with pytest.raises(InputError, match="label budget: expected labels per video"):
        apply_budget(videos, budget)


def test_impossible_choice(videos: list[VideoRef]) -> None:
    with pytest.raises(InputError, match="hash, first, middle, random"):
        apply_budget(videos, 1, which="last")
