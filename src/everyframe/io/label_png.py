"""Label maps as PNG files: one id per pixel, with the palette inside the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everyframe.errors import InputError, writing
from everyframe.files import whole_file
from everyframe.frames import IGNORE
from everyframe.io.images import open_picture
from everyframe.io.palette_png import read_palette_ids
from everyframe.labels import LabelSpace


def read_raw(path: str | Path) -> NDArray[Any]:
    """Read a mask file as it stands: ids [H, W] (palette and grey pictures), or colours uint8 [H, W, 3].

    Raises:
        InputError: missing, truncated, or a kind of picture that holds no labels.
    """
    ids = read_palette_ids(path)
    if ids is not None:
        return ids
    picture = open_picture(path)
    if picture.mode == "RGBA":
        picture = picture.convert("RGB")
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode not in {"P", "L", "RGB", "I", "I;16"}:
        raise InputError(
            f"{path}: expected a palette, grey or RGB mask, came a picture of mode {picture.mode}; save it as a "
            f"grey PNG without transparency, whose values are the ids"
        )
    return np.array(picture)


def read_label(path: str | Path, space: LabelSpace, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read a mask file as train ids.

    Args:
        path: palette, grey or RGB picture.
        space: its table turns raw ids, or colours, into train ids.
        size: (H, W) that the mask must have, normally its frame's.

    Returns:
        uint8 [H, W]: 0..K-1 and 255.

    Raises:
        InputError: missing, truncated, of another size, or with an id or colour outside the table.
    """
    raw = read_raw(path)
    if size is not None and raw.shape[:2] != size:
        raise InputError(
            f"{path}: expected a mask of {size[1]}x{size[0]} pixels like its frame, "
            f"came {raw.shape[1]}x{raw.shape[0]}; resize it with nearest neighbour"
        )
    return space.encode_rgb(raw, path) if raw.ndim == 3 else space.encode(raw, path)


def write_label(
    path: str | Path,
    train: NDArray[np.uint8],
    space: LabelSpace,
    *,
    raw: bool = True,
    compress_level: int = 1,
) -> None:
    """Write a label map as a palette PNG that any viewer shows in the class colours.

    Args:
        path: the file; its folder must exist.
        train: uint8 [H, W], train ids 0..K-1 and 255.
        space: turns train ids into raw ids and gives the colours.
        raw: write raw ids, as the masks of the training data hold them; False writes train ids.
        compress_level: zlib level 0..9; 1 costs a third of the time of PIL's default 6 and little in size.

    Raises:
        InputError: the file cannot be written (no such folder, no permission, a full disk), or a class has no raw id.
    """
    ids = space.decode(train) if raw else np.ascontiguousarray(train, dtype=np.uint8)
    picture = Image.fromarray(ids)
    picture.putpalette(_palette(space, raw))  # turns the grey picture into a palette picture with the same ids
    with writing(path), whole_file(path) as part:
        picture.save(part, format="PNG", compress_level=compress_level)


def _palette(space: LabelSpace, raw: bool) -> bytes:
    table = np.zeros((256, 3), np.uint8)
    ids = {r: t for r, t in space.raw_to_train.items() if 0 <= r <= 255} if raw else {t: t for t in range(len(space))}
    for file_id, train_id in ids.items():
        if train_id != IGNORE:
            table[file_id] = space.palette[train_id]
    return table.tobytes()
