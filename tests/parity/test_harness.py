"""The harness itself: it runs cases under any file name, and it notices wrong numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import NotBuilt, compare, find, load
from test_parity import builder_of

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_case_runs_under_any_file_name(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "psphead.safetensors", tmp_path / "dropped in.safetensors")
    (path,) = find(tmp_path)
    case = load(path)
    with torch.no_grad():
        compare(builder_of(case)(case), case)


@pytest.mark.parametrize("name", ["psphead", "fcnhead", "ocrhead_cascade", "vspw_ocrnet"])
def test_wrong_numbers_are_noticed(name: str) -> None:
    case = load(GOLDEN / f"{name}.safetensors")
    key = next(key for key in case.state if key.endswith("running_mean"))
    wrong = replace(case, state={**case.state, key: case.state[key] + 0.05})
    with torch.no_grad(), pytest.raises(AssertionError, match="error"):
        compare(builder_of(wrong)(wrong), wrong)


def test_a_missing_output_is_noticed() -> None:
    case = load(GOLDEN / "psphead.safetensors")
    with pytest.raises(AssertionError, match="not computed: logits, pre_classifier"):
        compare({}, case)


def test_weights_left_over_are_noticed() -> None:
    case = load(GOLDEN / "psphead.safetensors")
    more = replace(case, state={**case.state, "decode_head.another.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"decode_head\.another\.weight"):
        builder_of(more)(more)


def test_what_is_not_built_is_named() -> None:
    case = load(GOLDEN / "psphead.safetensors")
    config = json.loads(json.dumps(case.config))
    config["reference"]["class"] = "NoHead"
    with pytest.raises(NotBuilt, match="NoHead of open-mmlab/mmsegmentation"):
        builder_of(replace(case, config=config))


VARIANTS = {
    "dilated, joined with the input": [
        {"type": "FCNHead", "in_channels": 4, "in_index": 3, "channels": 6, "num_convs": 2, "concat_input": True,
         "kernel_size": 3, "dilation": 2, "num_classes": 3, "align_corners": False, "norm_cfg": {"type": "SyncBN"}},
    ],
    "no convolution": [
        {"type": "FCNHead", "in_channels": 4, "channels": 4, "num_convs": 0, "concat_input": False, "num_classes": 3},
    ],
    "corners aligned, other bins": [
        {"type": "PSPHead", "in_channels": 4, "in_index": 3, "channels": 6, "pool_scales": [1, 4], "num_classes": 3,
         "align_corners": True, "norm_cfg": {"type": "BN", "eps": 0.001}, "dropout_ratio": 0},
    ],
    "cascade on two stages of a dilated network": [
        {"type": "FCNHead", "in_channels": 3, "in_index": 2, "channels": 5, "num_convs": 1, "concat_input": False,
         "num_classes": 3, "norm_cfg": {"type": "SyncBN"}, "align_corners": False},
        {"type": "OCRHead", "in_channels": 4, "in_index": 3, "channels": 6, "ocr_channels": 2, "num_classes": 3,
         "norm_cfg": {"type": "SyncBN"}, "align_corners": False},
    ],
}  # fmt: skip


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_other_settings_of_the_same_heads_build(config: list[dict]) -> None:
    from everyframe.models.convert.mmseg_config import build_head

    maps = [
        torch.randn(2, c, *size) for c, size in zip((1, 2, 3, 4), ((16, 24), (8, 12), (8, 12), (8, 12)), strict=True)
    ]
    head = build_head(config, [x.shape[1] for x in maps], (4, 8, 8, 8)).eval()
    assert head(maps).shape == (2, 3, 8, 12)
