r"""DAVIS 2016 with the category of each video's object as its class: a second real set, to join a first one with.

    python experiments/davis_categories.py PATH/davis16_clips OUT --height 96
    everyframe reproduce multi-dataset --data vspw:CAMVID_CLIPS \
        --data.also '[{"data": "vspw:OUT", "mapping": "names", "effective": 0}]'

DAVIS 2016 labels one object per video; `videos.json` of the clips names its category. Objects whose category is a
class of CamVid get that class's name, other videos are left out. What is not the object has no label: it may be
anything.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from short_clips import write

from everyframe.data.layouts import load_split
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

CLASSES = ("car", "pedestrian", "bicyclist")
CATEGORIES = {"car": "car", "person": "pedestrian", "bicycle+rider": "bicyclist", "scooter+rider": "bicyclist",
    "motorbike+rider": "bicyclist"}  # fmt: skip
"""Category of a video -> class. CamVid's eleven classes count motorcyclists as bicyclists."""
OBJECT = 2
"""Raw id of the object in the clips' masks."""


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("clips", type=Path, metavar="PATH", help="20 sequences in VSPW's layout, with videos.json")
    made.add_argument("out", type=Path, metavar="OUT")
    made.add_argument("--height", type=int, default=96, help="rows of a frame; default: %(default)s")
    options = made.parse_args()
    categories = {
        name: entry["category"] for name, entry in json.loads((options.clips / "videos.json").read_text()).items()
    }
    written = []
    for split in ("train", "val", "test"):
        for video in load_split(f"vspw:{options.clips}", split)[0]:
            name = CATEGORIES.get(categories[video.name])
            if name is None:
                continue
            raw = {0: IGNORE, 1: IGNORE, OBJECT: CLASSES.index(name), 255: IGNORE}
            space = LabelSpace(CLASSES, raw_to_train=raw)
            positions = range(len(video.frames))
            write(replace(video, space=space), positions, space, options.out / "data" / video.name, options.height)
            written.append(video.name)
    (options.out / "train.txt").write_text("".join(f"{name}\n" for name in written), encoding="utf-8")
    table = {"0": "void"} | {str(i + 1): name for i, name in enumerate(CLASSES)}
    (options.out / "classes.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(written)} videos of {', '.join(CLASSES)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
