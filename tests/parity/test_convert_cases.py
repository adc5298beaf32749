"""Every case that is a whole model, through `everyframe convert`: the saved model gives the reference's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case, compare, find, load
from safetensors import safe_open
from torch.nn import functional as F

import everyframe
from everyframe.cli.__main__ import main
from everyframe.models.ops.resize import resize


def model_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the configuration of a case's whole model, or None where it is a part."""
    args = config.get("args", {})
    model = args.get("model", args)
    if not isinstance(model, dict) or not {"backbone", "decode_head"} <= set(model):
        return None
    kept = ("type", "backbone", "decode_head", "auxiliary_head", "test_cfg")
    found = {key: model[key] for key in kept if key in model}
    reference = config["reference"]["class"]
    if "type" not in found["backbone"]:
        found["backbone"] = {"type": reference.split(" ")[0], **found["backbone"]}
    return found


def whole_models() -> list[Path]:
    """Return the files of such cases."""
    found = []
    for path in find():
        with safe_open(path, "pt") as file:
            if model_config(json.loads((file.metadata() or {}).get("config", "{}"))) is not None:
                found.append(path)
    return found


@pytest.mark.parity
@pytest.mark.parametrize("path", whole_models(), ids=lambda path: path.stem)
def test_case(path: Path, tmp_path: Path) -> None:
    case = load(path)
    config = model_config(dict(case.config))
    assert config is not None
    torch.save({"meta": {"cfg": f"model = {config!r}"}, "state_dict": case.state}, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "--to", str(tmp_path / "m")]) == 0
    model = everyframe.load(tmp_path / "m")
    name = "semantic" if "semantic" in case.outputs else "logits"
    with torch.no_grad():
        scores = model.head(model.backbone(case.inputs["image"]))
    size, decode = case.inputs["image"].shape[-2:], config["decode_head"]
    if name == "logits":
        last = decode if isinstance(decode, dict) else decode[-1]
        aligned = last.get("align_corners", False)
        got = F.interpolate(scores, size, mode="bilinear", align_corners=aligned)
    else:
        got = resize(scores, size)
    compare({name: got}, Case(case.path, case.config, {}, {}, {name: case.outputs[name]}))
