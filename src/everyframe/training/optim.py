"""Optimiser, parameter groups and learning-rate schedule."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from everyframe.errors import InputError

LayerDecayForm = Literal["published", "corrected"]

POSITION_NAMES = (
    "pos_embed", "positions", "cls_token", "class_token", "reg_token", "bias_table", "level_embed", "query_embed",
    "query_feat", "level_encoding", "head.classes", "prototypes", "coarse_weights", "late_weights",
)  # fmt: skip
"""Tables of positions, tokens, queries, prototypes and factors: no weights of a map, so decay has no meaning."""

QUERY_NAMES = ("cls_embed", "mask_embed", "level_embed", "query_embed", "query_feat")
"""Parameters of mask heads that the published layer decay mistakes for the patch embedding."""


@dataclass(frozen=True)
class Optimization:
    """How weights follow gradients.

    Attributes:
        name: "adamw" or "sgd".
        lr: learning rate of the backbone.
        head_lr_factor: learning rate of everything outside the backbone, as a multiple of `lr`.
        weight_decay: decoupled for AdamW; never applied to biases, norms, factors per channel and other 1-d parameters,
            nor to tables of positions, tokens and queries.
        momentum: of SGD.
        betas: of AdamW.
        layer_decay: the learning rate of the backbone falls by this factor per layer from the output to the input;
            None: no decay.
        layer_decay_form: "corrected" counts every part by its depth and leaves what lies outside the backbone at
            its full rate. "published" repeats the rule of the VSPW 2023 winner's code: class and mask embeddings
            and queries of the head train at the rate of the patch embedding, and cls token and relative position
            tables are decayed.
        warmup: optimiser steps of linear warm-up; in runs shorter than ten times that, a tenth of the run.
        warmup_start: factor of the learning rate at step 0.
        power: exponent of the polynomial decay; 0 keeps the rate.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 6e-5
    head_lr_factor: float = 10.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float | None = None
    layer_decay_form: LayerDecayForm = "corrected"
    warmup: int = 1500
    warmup_start: float = 1e-6
    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.head_lr_factor > 0:  # (so that NaN is refused too)
            raise InputError(
                f"optimizer: expected lr and head_lr_factor above 0, came {self.lr:g} and {self.head_lr_factor:g}"
            )
        if not self.weight_decay >= 0 or not self.power >= 0 or self.warmup < 0:
            raise InputError(
                "optimizer: expected weight_decay, power and warmup of 0 or more, came "
                f"{self.weight_decay:g}, {self.power:g} and {self.warmup}"
            )
        if not 0 <= self.warmup_start <= 1:
            raise InputError(f"optimizer.warmup_start: expected a factor in [0, 1], came {self.warmup_start:g}")
        if not all(0 <= factor < 1 for factor in (self.momentum, *self.betas)):
            raise InputError(
                f"optimizer: expected momentum and betas in [0, 1), came {self.momentum:g} and {list(self.betas)}"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise InputError(f"optimizer.layer_decay: expected a factor in (0, 1], came {self.layer_decay:g}")

    def optimizer(
        self, model: nn.Module, objective: nn.Module | None = None, fused: bool = True
    ) -> torch.optim.Optimizer:
        """Build the optimiser of `model` (a `Segmenter`, or any module with a `backbone`).

        Args:
            model: what to train.
            objective: its parameters train at the head's rate, without decay.
            fused: whether AdamW may be one kernel on a CPU. Lightning refuses to clip gradients of such a one in mixed
                precision, as if it unscaled them itself.
        """
        groups = parameter_groups(
            model, self.lr, self.weight_decay, self.head_lr_factor, self.layer_decay, self.layer_decay_form
        )
        if objective is not None and (own := [p for p in objective.parameters() if p.requires_grad]):
            rate = self.lr * self.head_lr_factor
            groups.append({"params": own, "lr": rate, "weight_decay": 0.0, "name": "objective"})
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        # On a GPU the default is one kernel for many tensors; on a CPU it is a loop, a tenth of a small network's step.
        on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True if fused and on_cpu else None)

    def slow_start(self, model: nn.Module, fresh: Container[str]) -> str:
        """Say which parts of a mask head start fresh and would nearly stay so; "" where there are none.

        The published layer decay was used on heads that were trained before: it holds `QUERY_NAMES` at the patch
        embedding's rate.

        Args:
            model: see `optimizer`.
            fresh: names of the model's weights that start from random numbers.

        Raises:
            InputError: see `layer_ids`.
        """
        if self.layer_decay is None or self.layer_decay_form != "published":
            return ""
        ids = layer_ids((name for name, _ in model.named_parameters()), published=True)
        held = [name for name, layer in ids.items() if not layer and not name.startswith("backbone.") and name in fresh]
        parts = [part for part in QUERY_NAMES if any(part in name for name in held)]
        if not parts:
            return ""
        factor = self.layer_decay ** max(ids.values())
        return (
            f"{', '.join(parts)} start fresh, and the published layer decay trains them at {factor:.3g} times the rate "
            f"({self.lr * self.head_lr_factor * factor:.2g}), which is very slow; give a trained head by --init MODEL, "
            "or add --optimizer.layer_decay_form corrected"
        )

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """Build the schedule of a run of `steps` optimiser steps; to be stepped after each."""
        warmup = min(self.warmup, steps // 10)
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, steps, warmup, self.warmup_start, self.power)
        )


def lr_factor(step: int, steps: int, warmup: int, warmup_start: float, power: float) -> float:
    """Return the factor of the learning rate at a step: polynomial decay to 0, times linear warm-up.

    (1 - t/T)^power, and for t < W times 1 - (1 - t/W)(1 - start): the schedule of mmsegmentation 0.x.

    Args:
        step: t, from 0.
        steps: T, length of the run.
        warmup: W.
        warmup_start: factor at t = 0.
        power: exponent; 0 gives a constant rate after the warm-up.
    """
    decay = max(0.0, 1 - step / steps) ** power
    if step < warmup:
        decay *= 1 - (1 - step / warmup) * (1 - warmup_start)
    return decay


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    head_lr_factor: float = 1.0,
    layer_decay: float | None = None,
    layer_decay_form: LayerDecayForm = "corrected",
) -> list[dict[str, Any]]:
    """Sort the trainable parameters of `model` into groups of equal learning rate and weight decay.

    Args:
        model: parameters whose names start with `backbone.` form the backbone, the rest the head.
        lr: of the backbone.
        weight_decay: of the parameters that decay at all.
        head_lr_factor: see `Optimization`.
        layer_decay: see `Optimization`.
        layer_decay_form: see `Optimization`.

    Returns:
        Groups for a `torch.optim` optimiser in a stable order, each with `params`, `lr`, `weight_decay` and `name`.

    Raises:
        InputError: no parameter is trainable, or layer decay is asked for and the backbone's names show no layers.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise InputError("optimizer: expected parameters to train, came a model in which all are frozen")
    published = layer_decay_form == "published"
    ids = None if layer_decay is None else layer_ids((name for name, _ in model.named_parameters()), published)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trainable:
        rate = lr if name.startswith("backbone.") else lr * head_lr_factor
        label = "backbone" if name.startswith("backbone.") else "head"
        if ids is not None and layer_decay is not None:
            distance = max(ids.values()) - ids[name]
            rate *= layer_decay**distance
            label = f"layer{ids[name]}" if label == "backbone" else label
        decays = weight_decay if _decays(name, parameter, ids is not None and published) else 0.0
        label += "" if decays else ".no_decay"
        group = groups.setdefault((rate, decays), {"params": [], "lr": rate, "weight_decay": decays, "name": label})
        group["params"].append(parameter)
    for group, same in _repeated_names(groups.values()):
        group["name"] += f".{same}"  # optimisers are happy with equal names, learning-rate logs are not
    return list(groups.values())


def layer_ids(names: Iterable[str], published: bool = False) -> dict[str, int]:
    """Return the layer of each parameter, from 0 (patch embedding) to L + 1 (after the L blocks).

    Blocks are found by name: `blocks.7.` (ViT), `layers.2.blocks.5.` or timm's `layers_2.blocks.5.` (Swin),
    `stages.2.blocks.5.` (ConvNeXt), `layer3.5.` (ResNet), `stage3.5.` (HRNet). What stands before the first block of a
    later stage (patch merging) counts with that block, also where, as in our own backbones, it belongs to the stage
    before; norms behind blocks count with the block; what is no part of the chain (an adapter, output norms) with the
    output.

    Args:
        names: all parameter names of the model, in order of definition.
        published: the rule of ViT-Adapter's `layer_decay_optimizer_constructor.py`, see `Optimization`.

    Raises:
        InputError: no blocks in the backbone's names.
    """
    names = list(names)
    blocks = sorted({block for name in names if (block := _block(name)) is not None})
    if not blocks:
        raise InputError(
            "optimizer.layer_decay: expected a backbone whose parameter names show its layers (`blocks.N.`), came "
            f"{', '.join(n for n in names if n.startswith('backbone.'))[:80]}...; leave layer_decay out"
        )
    last = len(blocks) + 1
    ids: dict[str, int] = {}
    begun: set[int] = set()
    for name in names:
        if (block := _block(name)) is not None:
            begun.add(block[0])
        else:
            block = _behind_blocks(name, blocks, begun)
        if not name.startswith("backbone."):
            ids[name] = 0 if published and any(part in name for part in QUERY_NAMES) else last
        elif block is not None:
            ids[name] = blocks.index(block) + 1
        elif (stage := _stage(name)) is not None:
            ids[name] = next(i for i, (s, _) in enumerate(blocks, start=1) if s >= stage)
        else:
            ids[name] = 0 if _before_blocks(name) else last
    return ids


def _block(name: str) -> tuple[int, int] | None:
    """(stage, block) of a backbone parameter; stage 0 for backbones of one stage."""
    if not name.startswith("backbone."):
        return None
    if found := re.search(r"(?:layers|stages)[._](\d+)\.(?:\w+\.)?blocks\.(\d+)\.", name):
        return int(found[1]), int(found[2])
    if found := re.search(r"\.(?:layer|stage)(\d+)\.(\d+)\.", name):
        return int(found[1]), int(found[2])
    if found := re.search(r"\.blocks\.(\d+)\.", name):
        return 0, int(found[1])
    return None


def _behind_blocks(name: str, blocks: list[tuple[int, int]], begun: set[int]) -> tuple[int, int] | None:
    """Return the block with which counts what stands behind the blocks of its stage; None for everything else.

    Swin, FocalNet and InternImage halve their maps at the end of a stage, timm's models at its start: names are the
    same, but timm's come before the stage's blocks, so the stage is not among those begun.
    """
    found = re.match(r"backbone\.stages\.(\d+)\.(downsample|norm|block_norms\.(\d+))\.", name)
    if found is None or int(found[1]) not in begun:
        return None
    stage = int(found[1])
    if found[3] is not None:
        return stage, int(found[3])
    if found[2] == "norm":
        return max(block for block in blocks if block[0] == stage)
    return min((block for block in blocks if block[0] > stage), default=None)


def _stage(name: str) -> int | None:
    if found := re.search(r"(?:layers|stages)[._](\d+)\.", name):
        return int(found[1])
    found = re.search(r"\.transition(\d+)\.", name)  # HRNet's, to the stage behind
    return int(found[1]) + 1 if found else None


def _before_blocks(name: str) -> bool:
    tokens = (
        "patch_embed", "pos_embed", "positions", "cls_token", "class_token", "reg_token", "mask_token", "stem",
        "rel_pos_bias",
    )  # fmt: skip
    # `spm` is ViT-Adapter's spatial prior: it has a stem, but is new and shallow.
    return ".spm." not in name and (
        any(token in name for token in tokens) or re.search(r"\.(conv|bn)[12]\.", name) is not None
    )


def _decays(name: str, parameter: nn.Parameter, published: bool) -> bool:
    if parameter.ndim <= 1 or name.endswith(".bias"):
        return False
    if published:
        return True
    # A factor per channel may be stored as [C, 1, 1]. A `weight` of that size maps C channels to one, and decays.
    factors = parameter.numel() == max(parameter.shape) and not name.endswith("weight")
    return not factors and not any(part in name for part in POSITION_NAMES)


def _repeated_names(groups: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    seen: dict[str, int] = {}
    repeated = []
    for group in groups:
        count = seen[group["name"]] = seen.get(group["name"], 0) + 1
        if count > 1:
            repeated.append((group, count))
    return repeated
