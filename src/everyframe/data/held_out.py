"""Halves of a split: what is chosen on one half of the videos is scored on the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from everyframe.data.layout import VideoRef
from everyframe.errors import InputError

Half = Literal["first", "second"]
HALVES: tuple[Half, Half] = ("first", "second")


def half_of(videos: Sequence[VideoRef], half: Half) -> list[VideoRef]:
    """Return one half of the videos in the order of their names; of an odd number the first half has one more.

    The halves are whole stretches of the order: clips cut from one recording carry neighbouring names, and would stand
    on both sides if every other video were taken.

    Raises:
        InputError: there are fewer than two videos.
    """
    if len(videos) < 2:
        raise InputError(f"--half {half}: expected two videos or more to divide, came {len(videos)}; leave --half out")
    ordered = sorted(videos, key=lambda video: video.name)
    middle = -(-len(ordered) // 2)
    return ordered[:middle] if half == "first" else ordered[middle:]


def seen_note(
    what: str, data: str, chosen_on: Collection[str], scored_data: str | Path, scored: Sequence[VideoRef]
) -> str:
    """Return a sentence where some of the videos that are scored led to the choice; else "".

    Args:
        what: was chosen, "tau 0.4 of sweep.json".
        data: that it was chosen on, "LAYOUT:ROOT, SPLIT"; a video of another split may be the same one.
        chosen_on: names of its videos.
        scored_data: "LAYOUT:ROOT", or a bare path.
        scored: videos of that.
    """
    roots = {_root(text) for text in (data.rpartition(", ")[0], str(scored_data))}
    both = sum(video.name in chosen_on for video in scored)
    if not both or len(roots) > 1:
        return ""
    return (
        f"{what} was chosen on {both} of the {len(scored)} videos that are scored here: the figures are an upper "
        f"bound; choose on another split, or on one half of this one (ensemble --half first) and score the other"
    )


def _root(data: str) -> Path:
    """Return the folder of "LAYOUT:ROOT" or of a bare path, from whatever folder it was named."""
    _, colon, root = data.partition(":")
    return Path(root if colon and not Path(data).exists() else data).expanduser().resolve()
