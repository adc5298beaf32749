"""`everyframe VERB ...`: finds the verb's file and turns an `InputError` into one clear line."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module

from everyframe.cli.own_parts import take_imports
from everyframe.cli.stopped import tell_stopped
from everyframe.errors import InputError
from everyframe.stopping import stop_signals_raise

VERBS = {
    "demo": "synthetic videos -> train -> label every frame -> evaluate -> report, in minutes on a CPU",
    "data": "check a data set before training; start its classes file; pack predictions for CVAT",
    "train": "train a recipe",
    "self-train": "teacher -> pseudo-labels on disk -> student, in rounds",
    "predict": "label every frame of videos, folders, cameras, streams",
    "evaluate": "measure predictions or a model, and write a report",
    "ensemble": "join several models: store their scores, sweep the weight of two, mean, vote",
    "reproduce": "the papers' experiments as restartable grids: tables and plots",
    "convert": "turn a published checkpoint into a saved model",
    "export": "write a saved model as ONNX or torch.export, its memory as inputs and outputs",
    "models": "list the models with parameters and cost",
    "bench": "measure speed and memory (bench predict, model, metrics, stream, contrastive, deform)",
}
"""Verb -> one line of help. The verb's file is `everyframe/cli/VERB.py` with `main(arguments: list[str]) -> int`."""


def usage() -> str:
    """Return the help text."""
    lines = [f"  {verb:10s} {text}" for verb, text in VERBS.items()]
    own = "--import FILE.py in front of the verb registers heads, losses, layouts … of your own (also a module's name)."
    return "\n".join(["usage: everyframe VERB [arguments]", "", *lines, "", "everyframe VERB --help tells more.", own])


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit status.

    0 done, 1 the input cannot be used or a part failed, 2 bad usage, 130 stopped by Ctrl-C, 143 by SIGTERM; 0 after a
    SIGTERM for those that go on with the same command (`train`, `self-train`, `reproduce`) once training has begun.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = ""
    try:
        verb, *rest = take_imports(arguments) or [""]
        if verb in {"", "-h", "--help"}:
            print(usage())
            return 0 if verb else 2
        if verb in {"-V", "--version"}:
            from importlib.metadata import version

            print(f"everyframe {version('everyframe')}")
            return 0
        if verb not in VERBS:
            near = get_close_matches(verb, VERBS, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            print(f"everyframe: no verb {verb!r}; {meant}expected one of {', '.join(VERBS)}", file=sys.stderr)
            return 2
        with stop_signals_raise():
            return int(import_module(f"everyframe.cli.{verb.replace('-', '_')}").main(rest))
    except InputError as error:
        print(f"everyframe{verb and f' {verb}'}: {str(error).removeprefix(f'{verb}: ')}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stopped:
        return tell_stopped(verb, stopped)


if __name__ == "__main__":
    raise SystemExit(main())
