"""Members of an ensemble as one writes them: a model, and how this one looks at a frame.

- runs/a: as it is
- runs/a@480/320: windows of 480x480, 320 apart
- runs/a@short=896,window=896x896,stride=512: frames resized to a short side of 896, then windows
- runs/b@window=480x640,flip,scales=0.75+1+1.25: height x width; with the mirrored frame, at three sizes

What is not written is as it would be without the @.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from everyframe.errors import InputError

if TYPE_CHECKING:
    from everyframe.inference.views import Views

EXAMPLE = "short=896,window=896x896,stride=512,flip,scales=0.75+1+1.25"


def read_member(text: str) -> tuple[str, Views]:
    """Split MODEL@SETTINGS; a path that exists is taken whole.

    Returns:
        The model's path or hub id, and those options of `with_views` that were written.

    Raises:
        InputError: a setting that does not exist or cannot be read.
    """
    where, at, settings = text.rpartition("@")
    if not at or Path(text).exists():
        return text, {}
    views: dict[str, Any] = {}
    for item in settings.split(","):
        for name, value in _setting(item, text, where):
            if name in views:
                raise InputError(f"{text}: expected {name} once, came it twice; leave one out")
            views[name] = value
    return where, cast("Views", views)


def member_views(common: Views, own: Views) -> Views:
    """Return how one member looks at a frame: its own settings, and the common ones where it says nothing.

    Args:
        common: options of `with_views` for all members.
        own: what `read_member` found.
    """
    views: Views = {**common, **own}
    if own.get("window") is not None and "stride" not in own:
        views["stride"] = None  # that of all is the stride of another window
    if not (views.get("flip") or views.get("scales")):
        views["score_norm"] = None  # a single view is no average
    return views


def spelled_out(text: str, common: Views) -> str:
    """Return a member with the common flip and scales written behind its @, where it says nothing of them itself."""
    own = read_member(text)[1]
    more = ["flip"] if common.get("flip") and "flip" not in own else []
    if (scales := common.get("scales")) and "scales" not in own:
        more.append(f"scales={'+'.join(f'{factor:g}' for factor in scales)}")
    return text + ("," if own else "@") + ",".join(more) if more else text


def _setting(item: str, text: str, where: str) -> list[tuple[str, Any]]:
    """Read KEY=VALUE, "flip", or WINDOW/STRIDE."""
    name, equals, value = item.partition("=")
    if not equals and item[:1].isdigit():
        window, slash, stride = item.partition("/")
        parts = [("window", window)] + ([("stride", stride)] if slash else [])
    else:
        parts = [(name, value if equals else "yes" if name == "flip" else "")]
    if parts[0][0] not in READERS:
        near = get_close_matches(name, READERS, n=1)
        hint = f"did you mean {near[0]}? Write " if near else "write "
        raise InputError(
            f"{text}: expected settings {', '.join(READERS)} behind the @, or a window's size, came {item!r}; {hint}"
            f"{where}@{EXAMPLE}, or {where}@480/320"
        )
    found = []
    for key, written in parts:
        read, form = READERS[key]
        try:
            found.append((key, read(written)))
        except ValueError:
            raise InputError(f"{text}: expected {key}={form}, came {written!r}") from None
    return found


def _sides(text: str) -> int | tuple[int, int]:
    """Read a side, or height x width."""
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise ValueError
    sides = [int(side) for side in text.split("x")]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


def _factors(text: str) -> tuple[float, ...]:
    return tuple(float(factor) for factor in text.split("+"))


READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "short": (int, "PIXELS, such as 896"),
    "window": (_sides, "SIDE or HEIGHTxWIDTH in pixels, such as 896 or 480x640"),
    "stride": (_sides, "SIDE or HEIGHTxWIDTH in pixels, such as 512 or 320x400"),
    "flip": (_yes, "yes or no"),
    "scales": (_factors, "FACTOR+FACTOR..., such as 0.75+1+1.25"),
}
"""Setting -> how its value is read, and what it looks like."""
