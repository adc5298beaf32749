"""CamVid with one labelled frame in ten and with all of them: train, label the test videos, evaluate, tabulate.

    python experiments/camvid.py --data PATH/camvid_video

Every step is a command of everyframe, printed as one would type it. A killed run goes on where it was. The data are
CamVid in VSPW's layout (`data/<video>/{origin,mask}`, `train.txt`, `val.txt`, `test.txt`); `EVERYFRAME_DATA` may name
the folder that holds `camvid_video` instead of `--data`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from everyframe.metrics.results import Results

BUDGETS = {"1 in 10": "1/10", "all": "all"}
SCORES = (("mIoU", None), ("mIoU", "union>0"), ("weighted IoU", None), ("pixel accuracy", None))


def main() -> int:
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for name, budget in BUDGETS.items():
            run(options, f"{name.replace(' ', '')}-seed{seed}", budget, seed)
            write_table(options)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("EVERYFRAME_DATA")
    made.add_argument(
        "--data", type=Path, default=default and Path(default) / "camvid_video", required=default is None,
        help="folder of the videos in VSPW's layout",
    )  # fmt: skip
    made.add_argument("--out", type=Path, default=Path("results/camvid"), help="default: %(default)s")
    made.add_argument("--recipe", default="fcn-tiny", help="default: %(default)s")
    made.add_argument("--steps", type=int, default=2000, help="of each training; default: %(default)s")
    made.add_argument("--seeds", type=int, default=1, help="default: %(default)s")
    return made


def run(options: argparse.Namespace, name: str, budget: str, seed: int) -> None:
    """Train, predict and evaluate one setting, unless that is done."""
    folder = options.out / name
    record = folder / "record.json"
    if record.exists():
        return
    data = f"vspw:{options.data}"
    begin = time.time()
    everyframe(
        "train", options.recipe, "--data", data, "--out", folder, "--data.budget", budget, "--data.per", "frame",
        "--steps", options.steps, "--validate_every", max(1, options.steps // 4),
        "--data.seed", seed, "--seed", seed, "--resume", "auto",
    )  # fmt: skip
    minutes = (time.time() - begin) / 60
    for split in ("test", "val"):
        everyframe(
            "evaluate", "--model", folder / "model", "--data", data, "--split", split,
            "--save", folder / split, "--out", folder / f"{split}-report",
        )  # fmt: skip
    record.write_text(json.dumps({"budget": budget, "seed": seed, "minutes": minutes, "steps": options.steps}))


def everyframe(*words: object) -> None:
    """Run one command in a process of its own."""
    command = ["everyframe", *map(str, words)]
    print("$", shlex.join(command), flush=True)
    subprocess.run([sys.executable, "-m", "everyframe.cli", *command[1:]], check=True)


def write_table(options: argparse.Namespace) -> None:
    """Print the figures of all finished runs as Markdown, and write them to `table.md`."""
    lines = [
        f"{options.recipe}, {options.steps} steps, {platform.machine()}, {os.cpu_count()} cores",
        "",
        "| labels | seed | split | " + " | ".join(n if v is None else f"{n} [{v}]" for n, v in SCORES)
        + " | VC8 [correct] | minutes |",
        "|---" * (len(SCORES) + 5) + "|",
    ]  # fmt: skip
    found: dict[tuple[str, str], list[float]] = {}
    for record in sorted(options.out.glob("*/record.json")):
        settings = json.loads(record.read_text())
        for split in ("test", "val"):
            results = Results.from_json((record.parent / f"{split}-report" / "results.json").read_text())
            values = [100 * results.score(*score).value for score in (*SCORES, ("VC8", "correct"))]
            found.setdefault((settings["budget"], split), []).append(values[0])
            cells = [settings["budget"], str(settings["seed"]), split, *(f"{v:.2f}" for v in values)]
            lines.append(f"| {' | '.join(cells)} | {settings['minutes']:.0f} |")
    for (budget, split), values in found.items():
        if len(values) > 1:
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            lines.append(f"\n{budget}, {split}: mIoU {mean:.2f} ± {deviation:.2f} over {len(values)} seeds")
    text = "\n".join(lines) + "\n"
    (options.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    raise SystemExit(main())
