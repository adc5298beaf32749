"""The VSPW code's UPerNet and DeepLabv3+ on CSAIL's ResNet: conversion against the networks written as functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_heads import vspw_deeplab, vspw_encoder, vspw_uper
from published_layouts import Layout, under
from torch import Tensor
from torch.nn import functional as F

import everyframe
from everyframe.cli.__main__ import main
from everyframe.models.segmenter import Segmenter

Weights = dict[str, Tensor]
CLASSES = 5


def weights(layout: Layout) -> Weights:
    """Draw weights that all matter."""
    generator = torch.Generator().manual_seed(1)
    drawn = {}
    for name, shape in layout.items():
        scale = (2 / max(1, torch.Size(shape[1:]).numel())) ** 0.5
        drawn[name] = torch.randn(shape, generator=generator) * (scale if len(shape) > 1 else 0.2)
        if name.endswith("running_var"):
            drawn[name] = torch.rand(shape, generator=generator) + 0.5
        elif name.endswith("num_batches_tracked"):
            drawn[name] = torch.tensor(7)
        elif len(shape) == 1 and name.endswith("weight"):
            drawn[name] += 1
    return drawn


# -- the networks, by their published names ---------------------------------------------------------------------------


def conv(x: Tensor, w: Weights, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    padding = dilation * (kernel.shape[-1] // 2)
    return F.conv2d(x, kernel, w.get(f"{name}.bias"), stride, padding, dilation)


def normed(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.batch_norm(x, *(w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def block(x: Tensor, w: Weights, name: str, at: int = 0, dilation: int = 1) -> Tensor:
    """Convolution, norm and ReLU in a `Sequential`."""
    return normed(conv(x, w, f"{name}.{at}", dilation=dilation), w, f"{name}.{at + 1}").relu()


def encoder(x: Tensor, w: Weights, dilated: bool) -> list[Tensor]:
    """`ResnetDilated` turns every stride of the last two stages into dilation: half of it where the stride was."""
    for i in (1, 2, 3):
        x = normed(conv(x, w, f"conv{i}", 2 if i == 1 else 1), w, f"bn{i}").relu()
    x, maps = F.max_pool2d(x, 3, 2, 1), []
    for i in (1, 2, 3, 4):
        rate = {3: 2, 4: 4}.get(i, 1) if dilated else 1
        for j in range(2):
            name, strided = f"layer{i}.{j}", i > 1 and j == 0
            stride = 2 if strided and rate == 1 else 1
            first = rate // 2 if strided and rate > 1 else rate
            if f"{name}.conv3.weight" in w:
                y = normed(conv(x, w, f"{name}.conv1"), w, f"{name}.bn1").relu()
                y = normed(conv(y, w, f"{name}.conv2", stride, first), w, f"{name}.bn2").relu()
                y = normed(conv(y, w, f"{name}.conv3"), w, f"{name}.bn3")
            else:
                y = normed(conv(x, w, f"{name}.conv1", stride, first), w, f"{name}.bn1").relu()
                y = normed(conv(y, w, f"{name}.conv2", 1, rate), w, f"{name}.bn2")
            if f"{name}.downsample.0.weight" in w:
                x = normed(conv(x, w, f"{name}.downsample.0", stride), w, f"{name}.downsample.1")
            x = (x + y).relu()
        maps.append(x)
    return maps


def resized(x: Tensor, like: Tensor, aligned: bool = False) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=aligned)


def uper(maps: list[Tensor], w: Weights) -> Tensor:
    top = maps[-1]
    pooled = [resized(F.adaptive_avg_pool2d(top, bins), top) for bins in (1, 2, 3, 6)]
    levels = [block(cells, w, f"ppm_conv.{i}") for i, cells in enumerate(pooled)]
    x = block(torch.cat([top, *levels], 1), w, "ppm_last_conv")
    out = [x]
    for i in (2, 1, 0):
        lateral = block(maps[i], w, f"fpn_in.{i}")
        x = lateral + resized(x, lateral)
        out.insert(0, block(x, w, f"fpn_out.{i}.0"))
    fused = torch.cat([resized(level, out[0]) for level in out], 1)
    return conv(block(fused, w, "conv_last_.0"), w, "conv_last_.1")


def deeplab(maps: list[Tensor], w: Weights) -> Tensor:
    x = maps[-1]
    rates = {1: 1, 2: 12, 3: 24, 4: 36}
    branches = [normed(conv(x, w, f"aspp.aspp{i}.atrous_conv", dilation=rate), w, f"aspp.aspp{i}.bn").relu()
                for i, rate in rates.items()]  # fmt: skip
    average = block(x.mean((2, 3), keepdim=True), w, "aspp.global_avg_pool", at=1)
    joined = torch.cat([*branches, resized(average, x, True)], 1)
    x = normed(conv(joined, w, "aspp.conv1"), w, "aspp.bn1").relu()
    fine = normed(conv(maps[0], w, "decoder.conv1"), w, "decoder.bn1").relu()
    x = torch.cat([resized(x, fine, True), fine], 1)
    x = block(block(x, w, "decoder.last_conv"), w, "decoder.last_conv", at=4)
    return conv(x, w, "decoder.lastlast_conv.1")


# -- against what `everyframe convert` makes of them ------------------------------------------------------------------

CASES: dict[str, tuple[Callable[[list[Tensor], Weights], Tensor], bool, bool, Layout]] = {
    "uper": (uper, True, False, vspw_uper((32, 64, 128, 256), 8, CLASSES, pooled=6)),
    "deeplab": (deeplab, False, True, vspw_deeplab(64, 8, CLASSES, width=10, squeezed=6)),
    "deeplab on bottlenecks": (deeplab, True, True, vspw_deeplab(256, 32, CLASSES, width=10, squeezed=6)),
}
"""Case -> decoder, whether the encoder has bottlenecks, whether it is dilated, names and shapes of the decoder."""


def saved(folder: Path, bottleneck: bool, decoder: Layout) -> tuple[Weights, Weights, list[str]]:
    """Write both files as the VSPW code does."""
    parts = (weights(vspw_encoder((2, 2, 2, 2), bottleneck, width=8, stem=(6, 12))), weights(decoder))
    paths = [str(folder / f"{role}_epoch_20.pth") for role in ("encoder", "decoder")]
    for part, path in zip(parts, paths, strict=True):
        torch.save(part, path)
    return *parts, paths


@pytest.mark.parametrize("name", CASES)
def test_converted_models_compute_the_same(tmp_path: Path, name: str) -> None:
    function, bottleneck, dilated, decoder = CASES[name]
    encoder_weights, decoder_weights, paths = saved(tmp_path, bottleneck, decoder)
    report = tmp_path / "report.json"
    assert main(["convert", *paths, "--to", str(tmp_path / "m"), "--report", str(report)]) == 0
    model = everyframe.load(tmp_path / "m")
    assert isinstance(model, Segmenter)
    images = torch.randn(2, 3, 75, 90, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = encoder(images, encoder_weights, dilated)
        maps = model.backbone(images)
        for got, expected in zip(maps, want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        expected = function(want, decoder_weights)
        torch.testing.assert_close(model.head(maps), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    told = json.loads(report.read_text())
    assert told["used"].keys() == {*under("encoder.", encoder_weights), *under("decoder.", decoder_weights)}
    assert told["missing"] == told["unused"] == [] == list(told["dropped"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("decoder.lastlast_conv.1.weight"), "'decoder.decoder.lastlast_conv.1.weight' among"),
        (
            lambda w: w.pop("aspp.aspp3.bn.running_var"),
            "1 weights are missing: head.pyramid.branches.2.norm.running_var",
        ),
        (lambda w: w.update({"aspp.aspp5.bn.bias": torch.zeros(3)}), "decoder.aspp.aspp5.bn.bias; --allow-unused"),
    ],
)
def test_partial_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Weights], object], message: str
) -> None:
    _, decoder_weights, paths = saved(tmp_path, False, CASES["deeplab"][3])
    change(decoder_weights)
    torch.save(decoder_weights, paths[1])
    assert main(["convert", *paths, "--to", str(tmp_path / "m")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
