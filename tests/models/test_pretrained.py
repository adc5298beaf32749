"""Weights that cannot be downloaded: known at once, and what to do instead is said."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models import hub
from everyframe.models.zoo import create_model

NAMES = {"fcn-resnet18": "timm/resnet18.a1_in1k", "fcn-timm:resnet10t.c3_in1k": "timm/resnet10t.c3_in1k"}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub at an address where nobody answers, and an empty cache; to wait for another try is a failure."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s for another try"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", NAMES)
def test_without_network_it_says_what_was_wanted_and_how_to_go_on(name: str) -> None:
    with pytest.raises(InputError) as refused:
        create_model(name, LabelSpace(("a", "b")), pretrained=True)
    said = str(refused.value)
    assert "\n" not in said
    for part in (NAMES[name], "--model.pretrained false", "--init FOLDER", "fcn-ssltm-tiny", "hf download"):
        assert part in said
    assert constants.HF_HUB_OFFLINE is False, "what comes later may find a network"


@pytest.mark.usefixtures("no_network")
def test_a_hub_id_without_network_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"owner/name: no such folder here, and the hub cannot be reached"):
        hub.download("owner/name", ("config.json",))


def test_offline_stays_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_answers", lambda: pytest.fail("nobody is asked"))
    with hub.no_long_wait():
        assert constants.HF_HUB_OFFLINE is True
