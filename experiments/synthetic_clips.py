"""Write the synthetic set that the tables of docs/results.md are measured on: exact labels for every frame.

    python experiments/synthetic_clips.py OUT

48 videos to train on and 16 to score, 24 frames of 96 x 128 each, in VSPW's layout. Some classes look alike in a single
frame and differ by their motion, or by what a distant frame shows (`everyframe.data.synthetic`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("out", type=Path, metavar="OUT")
    made.add_argument("--train", type=int, default=48, help="videos to train on; default: %(default)s")
    made.add_argument("--val", type=int, default=16, help="videos to score; default: %(default)s")
    made.add_argument("--frames", type=int, default=24, help="of a video; default: %(default)s")
    made.add_argument("--size", type=int, nargs=2, default=[96, 128], metavar=("H", "W"), help="default: %(default)s")
    options = made.parse_args()
    for split, count, seed in (("train", options.train, 0), ("val", options.val, 1)):
        videos = SyntheticVideos(count, options.frames, tuple(options.size), seed=seed)
        write(list(videos), options.out, "vspw", split)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
