"""docs/metrics.md names every variant, its code runs, and so do the examples in docstrings."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from everyframe.labels import LabelSpace
from everyframe.metrics import bootstrap, consistency, evaluation, flicker, functional, stateful
from everyframe.metrics.definitions import DEFINITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def test_every_variant_is_explained() -> None:
    for name, variant in DEFINITIONS:
        assert name in PAGE
        assert variant in PAGE


def test_code_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    *lines, script, correct = block.strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    for line in (script, correct):
        call, says = line.split("#")
        assert str(eval(call, names)) == says.strip()


@pytest.mark.parametrize("module", [bootstrap, consistency, evaluation, flicker, functional, stateful])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module, extraglobs={"np": np, "torch": torch, "LabelSpace": LabelSpace})
    assert result.attempted
    assert not result.failed
