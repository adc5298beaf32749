"""File names: which endings pictures and videos have, and the order in which people number them."""

from __future__ import annotations

import re

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
VIDEO_ENDINGS = frozenset({
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})  # fmt: skip
"""Endings by which videos are found in a folder; a file named directly may have any."""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which frame2 comes before frame10; capitals matter only between names that are else the same."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    keys = [(0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
    return [*keys, (-1, 0, name)]
