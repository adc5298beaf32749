"""The examples in docstrings give what they say (those of the metrics have a test of their own)."""

from __future__ import annotations

import doctest
from types import ModuleType

import numpy as np
import pytest

from everyframe import labels
from everyframe.data import sampling, synthetic
from everyframe.models import zoo


@pytest.mark.parametrize("module", [labels, sampling, synthetic, zoo])
def test_examples(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted > 0
    assert result.failed == 0
