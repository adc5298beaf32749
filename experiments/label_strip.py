"""Draw frames of one labelled video under its true labels and under those of several models, as one picture.

    everyframe evaluate --model MODEL_A --data vspw:DATA --save labels-a
    everyframe evaluate --model MODEL_B --data vspw:DATA --save labels-b
    python experiments/label_strip.py vspw:DATA VIDEO picture.jpg "UperNet=labels-a" "SSLTM=labels-b"

A row per set of labels, a column per frame; the pictures of docs/results-ssltm.md are made this way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everyframe.data.layouts import load_split
from everyframe.data.predictions import SavedPredictions
from everyframe.data.reading import read_frame, read_labels
from everyframe.frames import IGNORE
from everyframe.report.overlay import overlay, side_by_side


def main() -> int:
    options = parser().parse_args()
    videos, space = load_split(options.data, options.split)
    video = {video.name: video for video in videos}[options.video]
    positions = np.linspace(0, len(video.frames) - 1, options.frames).round().astype(int).tolist()
    frames = [read_frame(video, position) for position in positions]
    nothing = np.full(frames[0].size, IGNORE, np.uint8)
    rows = {"truth": [found if (found := read_labels(video, p, space)) is not None else nothing for p in positions]}
    for word in options.labels:
        title, equals, folder = word.partition("=")
        if not equals or title in rows:
            raise SystemExit(f"expected TITLE=FOLDER with a title of its own, came {word!r}")
        maps = SavedPredictions(Path(folder), space)
        rows[title] = [maps.read(video, video.frames[p]) for p in positions]

    def panel(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        painted = overlay(image, labels, space, alpha=0.75)
        return cv2.resize(painted, None, fx=options.zoom, fy=options.zoom, interpolation=cv2.INTER_CUBIC)

    pictures = [frame.image.permute(1, 2, 0).numpy() for frame in frames]
    lines = [
        side_by_side(
            [panel(image, labels) for image, labels in zip(pictures, of_frames, strict=True)],
            [f"{title}, {frame.time:.1f} s" for frame in frames],
        )
        for title, of_frames in rows.items()
    ]
    Image.fromarray(np.vstack(lines)).save(options.out, quality=85, optimize=True)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("data", metavar="LAYOUT:ROOT")
    made.add_argument("video", metavar="VIDEO", help="name of a video of the split")
    made.add_argument("out", type=Path, metavar="PICTURE")
    made.add_argument("labels", nargs="+", metavar="TITLE=FOLDER", help="label maps that `evaluate --save` wrote")
    made.add_argument("--split", default="val", help="default: %(default)s")
    made.add_argument("--frames", type=int, default=5, help="columns; default: %(default)s")
    made.add_argument("--zoom", type=float, default=2.0, help="default: %(default)s")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
