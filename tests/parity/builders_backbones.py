"""Builders for cases of backbones' own repositories: InternImage, FocalNet, EVA-02."""

from __future__ import annotations

from cases import Builder, Case
from torch import Tensor

from everyframe.models.convert.backbones import BACKBONES, TABLES
from everyframe.models.convert.keys import convert
from everyframe.models.state import load_state


def backbone(case: Case) -> dict[str, Tensor]:
    """A backbone alone, its keys without prefix."""
    config = case.args["ctor"]
    model = BACKBONES[case.reference].from_config(config)
    load_state(model, convert(case.state, TABLES[case.reference](config), case.path), case.path)
    return {f"feat.{i}": x for i, x in enumerate(model.eval()(case.inputs["image"]))}


BUILDERS: dict[str, Builder] = dict.fromkeys(BACKBONES, backbone)
"""Class -> builder."""
