"""The label budget: which frames keep their label, as data that can be written down and used again.

A budget is a number of labels per video (1), a share of each video's labels ("1/8"), "all", or the manifest of an
earlier run. Nothing is drawn from a global generator: the choice depends on the name of the video, its number of
labelled frames, and the seed, so it is the same on every machine and when videos are added.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from everyframe.data.layout import VideoRef
from everyframe.data.listing import digest
from everyframe.errors import InputError, writing
from everyframe.files import write_whole

Which = Literal["hash", "first", "middle", "random"]
FORMAT = "everyframe label manifest 1"


def apply_budget(videos: Sequence[VideoRef], budget: str | int, which: str = "hash", seed: int = 0) -> list[VideoRef]:
    """Leave each video only the labels that the budget allows.

    Args:
        videos: videos of a training split.
        budget: labels per video (1, "1"), a share of each video's labelled frames ("1/8": evenly spaced, at least
            one), "all", or the path of a manifest that `write_manifest` wrote.
        which: which frames a number of labels keeps. "hash": the labelled frame number md5(name) mod n, and for more
            than one label evenly spaced from there; "first"; "middle": evenly spaced, for one label frame n // 2;
            "random": drawn by seed and name.
        seed: for "random".

    Returns:
        The same videos in the same order; their other frames stay as unlabelled ones.

    Raises:
        InputError: no such budget, or the manifest does not fit the videos.
    """
    if which not in get_args(Which):
        raise InputError(f"label budget: expected {', '.join(get_args(Which))} as frame choice, came {which!r}")
    text = str(budget).strip()
    if text == "all":
        return list(videos)
    if text.isdecimal() and int(text) > 0:
        return [v.keep_labels(set(choose(v.labelled, int(text), which, v.name, seed))) for v in videos]
    share = re.fullmatch(r"(\d+)\s*/\s*(\d+)", text)
    if share and 0 < int(share[1]) <= int(share[2]):
        return [v.keep_labels(set(_share(v.labelled, int(share[1]), int(share[2])))) for v in videos]
    if text.endswith(".json") or Path(text).is_file():
        return read_manifest(videos, text)
    raise InputError(
        f"label budget: expected labels per video (1), a share (1/8), all, or the path of a manifest (.json), "
        f"came {budget!r}"
    )


def choose(labelled: Sequence[int], count: int, which: str, name: str, seed: int = 0) -> list[int]:
    """Return `count` of the labelled positions (all of them when there are fewer), ascending.

    Args:
        labelled: positions of the labelled frames, ascending.
        count: how many to keep.
        which: see `apply_budget`.
        name: of the video.
        seed: for "random".
    """
    n = len(labelled)
    if count >= n:
        return list(labelled)
    if which == "first":
        picked = list(range(count))
    elif which == "middle":
        picked = _spread(n, count)
    elif which == "random":
        picked = random.Random(f"{seed}:{name}").sample(range(n), count)
    else:
        start = digest(name) % n
        picked = [(start + i * n // count) % n for i in range(count)]
    return sorted(labelled[i] for i in picked)


def _share(labelled: Sequence[int], numerator: int, denominator: int) -> list[int]:
    if not labelled:
        return []
    return [labelled[i] for i in _spread(len(labelled), max(1, len(labelled) * numerator // denominator))]


def _spread(n: int, count: int) -> list[int]:
    """Return `count` evenly spaced positions in 0..n-1, the same distance from both ends."""
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]


def manifest(videos: Sequence[VideoRef]) -> dict[str, Any]:
    """Return which frames are labelled: video name -> frame names."""
    labels = {video.name: [video.frames[index].name for index in video.labelled] for video in videos}
    return {"format": FORMAT, "labels": sum(map(len, labels.values())), "videos": labels}


def write_manifest(videos: Sequence[VideoRef], path: str | Path) -> None:
    """Write which frames are labelled as JSON, beside the run that used them.

    Raises:
        InputError: the file cannot be written.
    """
    with writing(path):
        write_whole(path, json.dumps(manifest(videos), indent=1) + "\n")


def read_manifest(videos: Sequence[VideoRef], path: str | Path) -> list[VideoRef]:
    """Leave each video the labels that a manifest names; a video that it does not name keeps none.

    Raises:
        InputError: no manifest, or it names a video or a labelled frame that is not there.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise InputError(f"{path}: expected format {FORMAT!r}, came {data['format']!r}")
        wanted = {str(name): [str(frame) for frame in frames] for name, frames in data["videos"].items()}
    except FileNotFoundError:
        raise InputError(f"{path}: expected a label manifest, found no file; check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected a label manifest as everyframe writes it, came {error!r}") from None
    unknown = sorted(set(wanted) - {video.name for video in videos})
    if unknown:
        raise InputError(
            f"{path}: expected names of the {len(videos)} videos given, came {', '.join(unknown[:3])} "
            f"({len(unknown)} unknown); use the data set and split that the manifest was written for"
        )
    return [_keep_named(video, wanted.get(video.name, []), path) for video in videos]


def _keep_named(video: VideoRef, names: list[str], path: Path) -> VideoRef:
    by_name = {video.frames[index].name: index for index in video.labelled}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InputError(
            f"{path}: expected labelled frames of video {video.name}, came {', '.join(unknown[:3])} ({len(unknown)} "
            f"without a label); add their masks or use the data set that the manifest was written for"
        )
    return video.keep_labels({by_name[name] for name in names})
