"""Shared fixtures. Everything runs without GPU, network or downloads."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(int(os.environ.get("EVERYFRAME_TEST_THREADS", "2")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
