"""Still pictures as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from everyframe.errors import InputError

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


def open_picture(path: str | Path) -> Image.Image:
    """Open and fully decode a picture, so that a truncated file is found here and nowhere later.

    Raises:
        InputError: missing, empty, truncated, or not a picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise InputError(f"{path}: expected a picture, found no file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        size = path.stat().st_size if path.is_file() else 0
        what = "an empty file (0 bytes)" if size == 0 else f"{size} bytes that do not decode ({error})"
        raise InputError(f"{path}: expected a picture, came {what}; replace or remove the file") from None


def read_image(path: str | Path) -> Tensor:
    """Read a picture as uint8 [3, H, W] in RGB order, upright by its EXIF orientation.

    Raises:
        InputError: missing, empty, truncated, or not a picture.
    """
    picture = ImageOps.exif_transpose(open_picture(path))
    pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
