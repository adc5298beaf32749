"""Cut a data set into short clips of small frames: many videos to label one frame of, cheap enough for a CPU.

    python experiments/short_clips.py vspw:PATH/camvid_video OUT --clip 10 --height 180 --score val test

Each video of the splits becomes clips of `--clip` consecutive frames (a last one shorter than that is joined to the
one before), resized to `--height` rows by the rule of VSPW's 480p version, written in VSPW's layout: OUT/train.txt
holds the clips of the splits that are to be trained on, OUT/val.txt those of the splits that are to be scored, in that
order. A split may be both: then one label per video is to give all other frames of the same videos.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from everyframe.data.layout import VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_frame, read_labels
from everyframe.frames import IGNORE
from everyframe.io.label_png import write_label
from everyframe.labels import LabelSpace


def main() -> int:
    options = parser().parse_args()
    listed: dict[str, list[str]] = {"train": [], "val": []}
    for kind, splits in (("train", options.train), ("val", options.score)):
        for split in splits:
            videos, space = load_split(options.data, split)
            for video in videos:
                for name, positions in clips(video, options.clip):
                    if kind == "train" or name not in listed["train"]:
                        write(video, positions, space, options.out / "data" / name, options.height)
                    listed[kind].append(name)
    for kind, names in listed.items():
        (options.out / f"{kind}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    table = {"0": "void"} | {str(c + 1): name for c, name in enumerate(space.names)}
    (options.out / "classes.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(listed['train'])} clips to train on, {len(listed['val'])} to score")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("data", metavar="LAYOUT:ROOT")
    made.add_argument("out", type=Path, metavar="OUT")
    made.add_argument("--clip", type=int, default=10, help="frames of a clip; default: %(default)s")
    made.add_argument("--height", type=int, default=180, help="rows of a frame; default: %(default)s")
    made.add_argument("--train", nargs="+", default=["train"], metavar="SPLIT", help="default: train")
    made.add_argument("--score", nargs="+", default=["val"], metavar="SPLIT", help="default: val")
    return made


def clips(video: VideoRef, length: int) -> Iterator[tuple[str, range]]:
    """Yield the name and the positions of each clip."""
    count = max(len(video.frames) // length, 1)
    for part in range(count):
        stop = len(video.frames) if part == count - 1 else (part + 1) * length
        yield f"{video.name}_{part:02d}", range(part * length, stop)


def write(video: VideoRef, positions: Sequence[int], space: LabelSpace, folder: Path, height: int) -> None:
    """Write one clip; ids are train ids + 1, 0 is void."""
    raw = {0: IGNORE, **{c + 1: c for c in range(len(space))}}
    written = LabelSpace(space.names, space.palette, raw)
    for position in positions:
        image = read_frame(video, position).image.permute(1, 2, 0).numpy()
        size = (height * image.shape[1] // image.shape[0], height)
        picture = folder / "origin" / f"{position:08d}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(picture), small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        labels = read_labels(video, position, space)
        if labels is not None:
            mask = folder / "mask" / f"{position:08d}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            write_label(mask, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), written)


if __name__ == "__main__":
    raise SystemExit(main())
