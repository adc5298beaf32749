"""Label maps back into CVAT: predictions as a zip that CVAT imports as "Segmentation mask 1.1".

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-smask
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from everyframe.data.archive import new_zip
from everyframe.data.listing import list_masks, require_folder, subfolders
from everyframe.data.predictions import some
from everyframe.errors import InputError, writing
from everyframe.io.label_png import read_label
from everyframe.labels import Color, LabelSpace
from everyframe.metrics.results_text import counted

BACKGROUND = "background"
BLACK = (0, 0, 0)
TABLE = "labels.json"


def write_cvat(labels: str | Path, out: str | Path, space: LabelSpace, names: str | None = None) -> int:
    """Pack the label maps of one video.

    Args:
        labels: folder of label maps, one PNG per frame, as `everyframe predict` writes them.
        out: zip file to write.
        space: label space of the files; CVAT's task needs labels of the same names.
        names: pattern that makes CVAT's frame name from the frame's number, such as "frame_{:06d}" for tasks made from
            a video file; None keeps the file names, which fits tasks made from pictures.

    Returns:
        The number of label maps packed.

    Raises:
        InputError: no label maps, names without a number, two label maps of one name, a black class that CVAT takes
            for the background, or two classes of one colour.
    """
    files = list_masks(require_folder(Path(labels), "label maps of one video"), nested=True)
    if not files:
        raise InputError(f"{labels}: expected label maps (PNG), found none; give the folder of one video")
    stems = _stems(files, names)
    colors = _colors(space)
    painted = LabelSpace(space.names, colors, space.raw_to_train, space.colors)
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in zip(space.names, colors, strict=True)]
    if BACKGROUND not in space.names:
        lines.insert(0, f"{BACKGROUND}:0,0,0::")
    with writing(out), new_zip(out) as archive:
        archive.writestr("labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines, ""]))
        archive.writestr("ImageSets/Segmentation/default.txt", "\n".join([*stems.values(), ""]))
        for stem, path in files.items():
            data = io.BytesIO()
            Image.fromarray(painted.colorize(read_label(path, space))).save(data, "PNG", compress_level=1)
            archive.writestr(f"SegmentationClass/{stems[stem]}.png", data.getvalue())
    return len(files)


def space_beside(labels: str | Path) -> LabelSpace:
    """Read the label space that lies beside the label maps of one video, as `everyframe predict` leaves it.

    Raises:
        InputError: there is none; or the folder is that of several videos, whose names are told.
    """
    labels = require_folder(Path(labels), "label maps of one video")
    beside = labels.resolve().parent / TABLE
    if beside.is_file():
        return LabelSpace.load(beside)
    if (labels / TABLE).is_file():
        videos = subfolders(labels)
        raise InputError(
            f"{labels}: expected the label maps of one video, came the folder of {counted(len(videos), 'video')} "
            f"({some(videos)}); give that of one: {labels / (videos[0] if videos else 'VIDEO')}"
        )
    raise InputError(
        f"{beside}: expected the label space of {labels}, found no file; give the folder of one video that predict "
        f"wrote (OUT/VIDEO), or name the file with --label-space"
    )


def _stems(files: Iterable[str], names: str | None) -> dict[str, str]:
    """Return the name without ending of each label map in the zip: a name of its own."""
    stems = {stem: _renamed(stem, names) for stem in files}
    first: dict[str, str] = {}
    for stem, name in stems.items():
        if first.setdefault(name, stem) != stem:
            raise InputError(
                f"{stem}: expected a name of its own in CVAT, came {name}, which {first[name]} has too; give the label "
                f"maps of one video, and a pattern such as frame_{{:06d}}"
            )
    return stems


def _renamed(stem: str, names: str | None) -> str:
    if names is None:
        return stem
    digits = stem[len(stem.rstrip("0123456789")) :]
    try:
        return names.format(int(digits))
    except (ValueError, IndexError, KeyError):
        raise InputError(
            f"{stem}: expected a file name that ends in the frame's number and a pattern such as frame_{{:06d}}, "
            f"came {names!r}"
        ) from None


def _colors(space: LabelSpace) -> tuple[Color, ...]:
    """Return one colour per class; black means background in CVAT, and nothing else may have it."""
    colors: list[Color] = []
    for name, color in zip(space.names, space.palette, strict=True):
        if color == BLACK and name != BACKGROUND:
            raise InputError(
                f"{name}: expected a colour other than black, which CVAT takes for the background; give it one in "
                f"the label space (labels.json, palette)"
            )
        if color in colors:
            raise InputError(
                f"{name}: expected a colour of its own, by which CVAT tells classes apart, came that of "
                f"{space.names[colors.index(color)]}; give it another in the label space (labels.json, palette)"
            )
        colors.append(BLACK if name == BACKGROUND else color)
    return tuple(colors)
