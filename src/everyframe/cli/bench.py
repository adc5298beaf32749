"""`everyframe bench NAME ...`: measurements that anyone can repeat; `docs/performance.md` holds what they printed."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHES = {
    "contrastive": "memory and time of the contrastive loss in tiles, beside the dense form",
    "deform": "deformable attention, beside the forms of transformers and of grid_sample",
    "metrics": "video consistency and the confusion matrix, beside the authors' loops",
    "model": "a recipe's model whole: frames/s, training steps/s, memory, share of the matrix rate",
    "predict": "memory over a long video, and what everything outside the model costs",
    "stream": "a model with memory on a stream, beside the same weights without it and beside whole clips",
}
"""Name -> one line of help. The file is `everyframe/cli/bench_NAME.py` with `main(arguments: list[str]) -> int`."""


def main(arguments: list[str]) -> int:
    """Run one bench."""
    name, *rest = arguments or ["--help"]
    if name not in BENCHES:
        known = "\n".join(f"  {bench:12s} {text}" for bench, text in BENCHES.items())
        text = f"usage: everyframe bench NAME [arguments]\n\n{known}\n\neveryframe bench NAME --help tells more."
        asked = name in {"-h", "--help"} and bool(arguments)
        print(text, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    return int(import_module(f"everyframe.cli.bench_{name}").main(rest))
