"""All experiments by name."""

from __future__ import annotations

from everyframe.errors import InputError
from everyframe.reproduce.experiment import Experiment
from everyframe.reproduce.own_grids import OWN_EXPERIMENTS
from everyframe.reproduce.ssltm_grids import SSLTM_EXPERIMENTS
from everyframe.reproduce.vspw2023_grids import VSPW2023_EXPERIMENTS

EXPERIMENTS: dict[str, Experiment] = {**SSLTM_EXPERIMENTS, **VSPW2023_EXPERIMENTS, **OWN_EXPERIMENTS}
"""Name of `everyframe reproduce NAME` -> experiment."""


def find(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises:
        InputError: there is none; the message lists them.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"no experiment {name!r}; expected one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
