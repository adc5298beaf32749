"""Mapillary Vistas (Neuhold et al., ICCV 2017), the 66 labels of its version 1.2, on still pictures of streets.

    ROOT/config.json                    names and colours; config_v1.2.json in the release of version 2.0
    ROOT/SPLIT/images/KEY.jpg           SPLIT training, validation, testing
    ROOT/SPLIT/labels/KEY.png           ids, positions in the list of config.json; SPLIT/v1.2/labels in version 2.0

The last label, void--unlabeled, is ignored: 65 classes. The masks' palettes are not read.
"""

from __future__ import annotations

import json
from pathlib import Path

from everyframe.data.class_tables import read_table
from everyframe.data.layout import Split
from everyframe.data.listing import list_frames, list_masks, require_folder, stills
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import Color, LabelSpace

FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
CONFIGS = ("config.json", "config_v1.2.json")
UNLABELED = "void--unlabeled"


def mapillary(root: Path, split: str) -> Split:
    """Read one split as videos of one frame; test has no masks.

    Raises:
        InputError: no such split, its pictures or masks are missing, or a damaged config.json.
    """
    root = Path(root)
    if split not in FOLDERS:
        raise InputError(f"{root}: expected split {', '.join(FOLDERS)}, came {split!r}; choose one of them")
    folder, space = root / FOLDERS[split], label_space(root)
    pictures = list_frames(require_folder(folder / "images", "the pictures of Mapillary Vistas"))
    if split == "test":
        return stills(pictures, {}, complain=False), space
    newer = folder / "v1.2" / "labels"
    masks = newer if newer.is_dir() else folder / "labels"
    return stills(pictures, list_masks(require_folder(masks, "the label maps of Mapillary Vistas 1.2"))), space


def splits(root: Path) -> list[str]:
    """Names of the splits whose pictures are there."""
    return [split for split, folder in FOLDERS.items() if (root / folder / "images").is_dir()]


def label_space(root: Path | None = None) -> LabelSpace:
    """Return the 65 classes; with the names and colours of a data set's config.json where it has one.

    Raises:
        InputError: the file is damaged.
    """
    config = next((root / name for name in CONFIGS if (root / name).is_file()), None) if root is not None else None
    if config is None:
        names, palette = tuple(row["name"] for row in read_table("mapillary_labels")), None
    else:
        names, palette = _read(config)
    kept = [i for i, name in enumerate(names) if name != UNLABELED]
    raw_to_train = {i: IGNORE for i in range(len(names))} | {raw: train for train, raw in enumerate(kept)}
    colors = () if palette is None else tuple(palette[i] for i in kept)
    return LabelSpace(tuple(names[i] for i in kept), colors, raw_to_train)


def _read(config: Path) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    try:
        labels = json.loads(config.read_text(encoding="utf-8"))["labels"]
        colors = tuple((int(r), int(g), int(b)) for r, g, b in (label["color"] for label in labels))
        return tuple(str(label["name"]) for label in labels), colors
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{config}: expected the "labels" of Mapillary Vistas with name and color, came {error!r}; unpack it anew, '
            f"or remove it to go by the names of version 1.2"
        ) from None
