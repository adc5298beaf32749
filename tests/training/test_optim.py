"""Parameter groups, layer decay and the schedule against the published formulas and hand-counted layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_run import tiny_model
from torch import nn

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.backbones.intern_image import InternImage
from everyframe.models.zoo import create_model
from everyframe.training.optim import Optimization, layer_ids, lr_factor, parameter_groups

WINNER_NAMES = [
    "backbone.cls_token",
    "backbone.patch_embed.proj.weight",
    "backbone.blocks.0.norm1.weight",
    "backbone.blocks.0.attn.relative_position_bias_table",
    "backbone.blocks.23.mlp.fc1.weight",
    "backbone.level_embed",
    "backbone.spm.stem.0.weight",
    "backbone.interactions.0.injector.gamma",
    "decode_head.pixel_decoder.input_convs.0.conv.weight",
    "decode_head.cls_embed.weight",
    "decode_head.query_feat.weight",
    *(f"backbone.blocks.{i}.mlp.fc1.bias" for i in range(24)),
]


def test_published_layer_ids_are_those_of_the_winner_code() -> None:
    """26 ids: 0 = patch embedding (and, by mistake, the head's embeddings), block i -> i + 1, the rest 25."""
    ids = layer_ids(WINNER_NAMES, published=True)
    assert [ids[name] for name in WINNER_NAMES[:11]] == [0, 0, 1, 1, 24, 25, 25, 25, 25, 0, 0]
    assert [ids[f"backbone.blocks.{i}.mlp.fc1.bias"] for i in range(24)] == list(range(1, 25))


def test_corrected_layer_ids_leave_the_head_at_its_full_rate() -> None:
    ids = layer_ids(WINNER_NAMES)
    assert [ids[name] for name in WINNER_NAMES[:11]] == [0, 0, 1, 1, 24, 25, 25, 25, 25, 25, 25]


def test_published_layer_decay_scales() -> None:
    """0.9^25 = 0.0718 at the patch embedding, 0.9^24 = 0.0798 at block 0, 0.9 at block 23, 1 behind."""
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.patch_embed = nn.Linear(2, 2)
    model.backbone.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(24))
    model.cls_embed = nn.Linear(2, 2)
    model.pixel_decoder = nn.Linear(2, 2)
    rates = {}
    for form in ("published", "corrected"):
        groups = parameter_groups(model, 1.0, 0.05, 1.0, 0.9, form)
        rates[form] = {id(p): group["lr"] for group in groups for p in group["params"]}
    published, corrected = rates["published"], rates["corrected"]
    assert published[id(model.backbone.patch_embed.weight)] == pytest.approx(0.0718, abs=5e-5)
    assert published[id(model.backbone.blocks[0].weight)] == pytest.approx(0.0798, abs=5e-5)
    assert published[id(model.backbone.blocks[23].weight)] == pytest.approx(0.9)
    assert published[id(model.cls_embed.weight)] == pytest.approx(0.0718, abs=5e-5)
    assert published[id(model.pixel_decoder.weight)] == 1
    assert corrected[id(model.cls_embed.weight)] == 1


def test_published_layer_decay_says_what_it_holds_back() -> None:
    """0.9^25 of 2e-5 is 1.4e-6; nothing is said of other heads, of trained ones, or of the corrected form."""
    with torch.device("meta"):
        model = create_model("mask2former-beitv2-adapter-large", LabelSpace(("a", "b")))
        pixels = create_model("uper-beitv2-adapter-large", LabelSpace(("a", "b")))
    published = Optimization(lr=2e-5, head_lr_factor=1.0, layer_decay=0.9, layer_decay_form="published")
    names = [name for name, _ in model.named_parameters()]
    assert "level_embed, query_embed, query_feat start fresh" in (text := published.slow_start(model, names))
    assert "at 0.0718 times the rate (1.4e-06)" in text
    assert published.slow_start(model, ["head.cls_embed.weight", *names[:9]]).startswith("cls_embed start fresh")
    assert published.slow_start(model, ()) == ""
    assert published.slow_start(pixels, [name for name, _ in pixels.named_parameters()]) == ""
    assert replace(published, layer_decay_form="corrected").slow_start(model, names) == ""
    assert replace(published, layer_decay=None).slow_start(model, names) == ""


def test_swin_layers_count_through_the_stages() -> None:
    model = create_model("psp-swin-tiny", LabelSpace(("a", "b")))
    ids = layer_ids([name for name, _ in model.named_parameters()])
    blocks = {}
    for name, layer in ids.items():
        if name.startswith("backbone.") and ".blocks." in name:
            blocks.setdefault(name.split(".blocks.")[0] + name.split(".blocks.")[1].split(".")[0], layer)
    assert sorted(blocks.values()) == list(range(1, 13))  # depths 2, 2, 6, 2
    first = next(layer for name, layer in ids.items() if name.startswith("backbone.") and "patch_embed" in name)
    assert first == 0
    assert all(layer == 13 for name, layer in ids.items() if name.startswith("head."))


def test_what_halves_the_maps_counts_with_the_stage_that_reads_it() -> None:
    """Depths 2, 2, 18, 2: block j of stage 2 is layer 5 + j, block 0 of stage 3 layer 23."""
    with torch.device("meta"):
        names = [name for name, _ in create_model("psp-swin-small", LabelSpace(("a", "b"))).named_parameters()]
    ids = layer_ids(names)
    assert [ids[f"backbone.stages.{i}.downsample.reduction.weight"] for i in range(3)] == [3, 5, 23]
    assert ids["backbone.stages.2.blocks.17.norm1.weight"] == 22
    assert ids["backbone.stages.3.blocks.0.norm1.weight"] == 23


@pytest.mark.parametrize("name", ["swin-micro", "focalnet-micro", "internimage-micro"])
def test_layers_never_fall_from_stage_to_stage(name: str) -> None:
    with torch.device("meta"):
        model = create_model(f"psp-{name}", LabelSpace(("a", "b")))
    ids = layer_ids(n for n, _ in model.named_parameters())
    for i in range(3):
        halves = {layer for n, layer in ids.items() if n.startswith(f"backbone.stages.{i}.downsample.")}
        first = {layer for n, layer in ids.items() if n.startswith(f"backbone.stages.{i + 1}.blocks.0.")}
        assert len(halves) == 1, i
        assert halves == first, i


def test_norms_behind_blocks_count_with_them() -> None:
    backbone = InternImage(8, (1, 1, 3, 1), (1, 2, 4, 8), post_norm=False, block_norms=(1,), kernel=3)
    ids = layer_ids(name for name, _ in nn.ModuleDict({"backbone": backbone}).named_parameters())
    assert [ids[f"backbone.stages.{i}.norm.weight"] for i in range(4)] == [1, 2, 5, 6]
    assert ids["backbone.stages.2.block_norms.1.weight"] == 4
    assert ids["backbone.stages.2.downsample.conv.weight"] == 6


def test_timm_halves_the_maps_at_the_start_of_a_stage() -> None:
    """Depths 3, 3, 9, 3."""
    with torch.device("meta"):
        model = create_model("psp-convnext-tiny", LabelSpace(("a", "b")))
    ids = layer_ids(name for name, _ in model.named_parameters())
    halves = {n: layer for n, layer in ids.items() if "downsample" in n and n.endswith("1.weight")}
    assert list(halves.values()) == [4, 7, 16]
    raw = ["stages.0.blocks.0.x", "stages.1.downsample.1.x", "stages.1.blocks.0.x", "stages.1.blocks.1.x"]
    assert list(layer_ids(f"backbone.{name}" for name in raw).values()) == [1, 2, 2, 3]


def test_the_branches_of_hrnet_are_layers() -> None:
    """Four blocks in layer1, then 1, 4 and 3 exchanges; a transition counts with the stage that it leads to."""
    with torch.device("meta"):
        model = create_model("ocr-hrnet-w18", LabelSpace(("a", "b")))
    ids = layer_ids(name for name, _ in model.named_parameters())
    firsts = ["conv1.weight", "bn2.weight", "layer1.0.conv1.weight", "layer1.3.conv1.weight"]
    assert [ids[f"backbone.{name}"] for name in firsts] == [0, 0, 1, 4]
    for stage, layer in ((2, 5), (3, 6), (4, 10)):
        parts = {
            layer
            for n, layer in ids.items()
            if n.startswith((f"backbone.stage{stage}.0.", f"backbone.transition{stage - 1}."))
        }
        assert parts == {layer}
    assert {layer for n, layer in ids.items() if n.startswith("head.")} == {13}


def test_layer_decay_refuses_backbones_without_visible_layers() -> None:
    with pytest.raises(InputError, match="leave layer_decay out"):
        Optimization(layer_decay=0.9).optimizer(tiny_model())


def test_norms_biases_and_position_tables_do_not_decay() -> None:
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.norm = nn.LayerNorm(2)
    model.backbone.fc = nn.Linear(2, 2)
    model.backbone.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
    model.head = nn.Conv2d(2, 2, 1)
    groups = {g["name"]: g for g in parameter_groups(model, 0.1, 0.05, head_lr_factor=10)}
    assert {name: (g["lr"], g["weight_decay"], len(g["params"])) for name, g in groups.items()} == {
        "backbone.no_decay": (0.1, 0.0, 4),
        "backbone": (0.1, 0.05, 1),
        "head": (1.0, 0.05, 1),
        "head.no_decay": (1.0, 0.0, 1),
    }


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("fcn-gru-tiny", ["temporal.gamma"]),
        ("psp-ssltm-tiny", ["temporal.site.gamma", "temporal.prototypes.prototypes"]),
        ("segmenter-tiny", ["head.classes"]),
        (
            "mask2former-tiny",
            ["head.query_feat.weight", "head.query_embed.weight", "head.pixel_decoder.level_encoding"],
        ),
    ],
)
def test_factors_tokens_and_queries_of_the_models_do_not_decay(name: str, free: list[str]) -> None:
    with torch.device("meta"):
        model = create_model(name, LabelSpace(("a", "b", "c")))
    decayed = {id(p) for g in parameter_groups(model, 0.1, 0.05) if g["weight_decay"] for p in g["params"]}
    named = dict(model.named_parameters())
    assert [n for n in free if id(named[n]) in decayed] == []
    assert [n for n, p in named.items() if not n.endswith("weight") and id(p) in decayed] == []


def test_a_map_to_one_channel_decays() -> None:
    """It has as many weights as channels, like a factor, but is a map: HMSA's attention between scales."""
    with torch.device("meta"):
        model = create_model("hmsa-ocr-tiny", LabelSpace(("a", "b", "c")))
    decayed = {id(p) for g in parameter_groups(model, 0.1, 0.05) if g["weight_decay"] for p in g["params"]}
    to_one = [p for n, p in model.named_parameters() if n.startswith("head.attention.") and p.shape[0] == 1 < p.ndim]
    assert [id(p) in decayed for p in to_one] == [True]


def test_frozen_parameters_are_left_out() -> None:
    model = tiny_model()
    model.backbone.requires_grad_(False)
    optimizer = Optimization().optimizer(model)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.head.parameters()}
    model.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        Optimization().optimizer(model)


def test_schedule_follows_the_formula() -> None:
    """lr(t) = base (1 - t/T)^p, times 1 - (1 - t/W)(1 - start) for t < W."""
    steps, warmup = 40_000, 1500
    assert lr_factor(0, steps, warmup, 1e-6, 1.0) == pytest.approx(1e-6)
    assert lr_factor(750, steps, warmup, 1e-6, 1.0) == pytest.approx((1 - 750 / steps) * (0.5 + 0.5e-6))
    assert lr_factor(1500, steps, warmup, 1e-6, 1.0) == pytest.approx(1 - 1500 / steps)
    assert lr_factor(20_000, steps, warmup, 1e-6, 0.9) == pytest.approx(0.5**0.9)
    assert lr_factor(40_000, steps, warmup, 1e-6, 1.0) == 0
    assert lr_factor(30_000, steps, 0, 1e-6, 0.0) == 1


def test_schedule_steps_every_group() -> None:
    optimization = Optimization("sgd", lr=0.1, head_lr_factor=10, warmup=0, power=1.0)
    optimizer = optimization.optimizer(tiny_model())
    schedule = optimization.schedule(optimizer, steps=4)
    rates = []
    for _ in range(4):
        rates.append(max(g["lr"] for g in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_warmup_is_at_most_a_tenth_of_a_short_run() -> None:
    optimization = Optimization(lr=1.0, head_lr_factor=1.0, warmup=1500)
    schedule = optimization.schedule(optimization.optimizer(tiny_model()), steps=100)
    assert schedule.lr_lambdas[0](10) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr and head_lr_factor above 0, came 0 and 10"),
        ({"lr": float("nan")}, "lr and head_lr_factor above 0, came nan"),
        ({"layer_decay": 1.5}, r"layer_decay: expected a factor in \(0, 1\], came 1.5"),
        ({"weight_decay": -0.01}, "weight_decay, power and warmup of 0 or more, came -0.01, 1 and 1500"),
        ({"power": -1}, "came 0.01, -1 and 1500"),
        ({"warmup": -1}, "came 0.01, 1 and -1"),
        ({"warmup_start": 1.5}, r"warmup_start: expected a factor in \[0, 1\], came 1.5"),
        ({"warmup_start": -0.1}, "came -0.1"),
        ({"betas": (0.9, 1.0)}, r"momentum and betas in \[0, 1\), came 0.9 and \[0.9, 1.0\]"),
        ({"momentum": 1.0}, "came 1 and"),
    ],
)
def test_impossible_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Optimization(**options)


def test_bounds_of_options() -> None:
    Optimization(weight_decay=0, power=0, warmup=0, warmup_start=1.0, betas=(0.0, 0.0), momentum=0.0, layer_decay=1.0)
