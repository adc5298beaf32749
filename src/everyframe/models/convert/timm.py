"""timm's pretrained weights -> our own backbones of the same shape."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.models.backbones.focalnet import FocalNet
from everyframe.models.backbones.hrnet import HRNet
from everyframe.models.backbones.resnet import ResNet
from everyframe.models.backbones.swin import SwinTransformer
from everyframe.models.convert.keys import Rule, Table, convert, left_out
from everyframe.models.pretrained import pretrained_model
from everyframe.models.state import State, load_state

PRETRAINING = "top of the classifier that was pretrained"


def merging_order(x: Tensor) -> Tensor:
    """Reorder the input channels of a patch-merging layer, the last dimension.

    The original code and timm list the four neighbours one after the other, ((0, 0), (1, 0), (0, 1), (1, 1)) as (y, x)
    with C channels each; ours and mmseg's list, for each channel, (0, 0), (0, 1), (1, 0), (1, 1).
    """
    neighbours = x.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2)


_STAGE = r"layers[._](\d+)"

RESNET: Table = [
    left_out(r"fc\..+", PRETRAINING),
    Rule(r"(layer\d+\..+)", r"\1"),
    Rule(r"conv1\.(\d)\.(.+)", r"stem.\1.\2"),
    Rule(r"conv1\.(weight)", r"stem.0.\1"),
]
"""timm's ResNet without the norm after the stem, which stands at 7 in a deep stem and at 1 in a plain one."""


HRNET: Table = [
    left_out(r"(?:incre_modules|downsamp_modules|final_layer|classifier)\..+", PRETRAINING),
    Rule(r"((?:conv|bn)\d|layer1|transition\d|stage\d)(\..+)", r"\1\2"),
]
"""timm's HRNet: the same names, and a classifying top."""


def resnet_table(deep_stem: bool) -> Table:
    """Return the table of timm's ResNet."""
    return [*RESNET, Rule(r"bn1\.(.+)", rf"stem.{7 if deep_stem else 1}.\1")]


def swin_table(merging_last: bool = False) -> Table:
    """Return the table of timm's Swin Transformer, whose stages begin (ours end) with the patch merging.

    Args:
        merging_last: stages end with it, as in the authors' files.
    """
    first = 0 if merging_last else 1
    merging = [
        Rule(
            rf"layers[._]{i + first}\.downsample\.(norm|reduction)\.(weight|bias)",
            rf"stages.{i}.downsample.\1.\2",
            merging_order,
        )
        for i in range(8)
    ]
    block = rf"{_STAGE}\.blocks\.(\d+)"
    return [
        *merging,
        left_out(r"(?:head|norm)\..+", PRETRAINING),
        left_out(rf"{block}\.(?:attn_mask|attn\.relative_position_index)", "computed here"),
        Rule(r"patch_embed\.proj\.(.+)", r"patch_embed.projection.\1"),
        Rule(r"patch_embed\.norm\.(.+)", r"patch_embed.norm.\1"),
        Rule(rf"{block}\.attn\.proj\.(.+)", r"stages.\1.blocks.\2.attention.projection.\3"),
        Rule(rf"{block}\.attn\.(.+)", r"stages.\1.blocks.\2.attention.\3"),
        Rule(rf"{block}\.mlp\.fc1\.(.+)", r"stages.\1.blocks.\2.mlp.0.\3"),
        Rule(rf"{block}\.mlp\.fc2\.(.+)", r"stages.\1.blocks.\2.mlp.2.\3"),
        Rule(rf"{block}\.(norm\d\..+)", r"stages.\1.blocks.\2.\3"),
    ]


def focalnet_table() -> Table:
    """Return the table of timm's FocalNet, whose stages begin (ours end) with the patch embedding."""
    block = r"layers\.(\d+)\.blocks\.(\d+)"
    ours = r"stages.\1.blocks.\2"
    return [
        left_out(r"(?:head|norm)\..+", PRETRAINING),
        Rule(r"stem\.proj\.(.+)", r"patch_embed.projection.\1"),
        Rule(r"stem\.norm\.(.+)", r"patch_embed.norm.\1"),
        *(Rule(rf"layers\.{i + 1}\.downsample\.proj\.(.+)", rf"stages.{i}.downsample.projection.\1") for i in range(3)),
        *(Rule(rf"layers\.{i + 1}\.downsample\.norm\.(.+)", rf"stages.{i}.downsample.norm.\1") for i in range(3)),
        Rule(rf"{block}\.ls([12])\.gamma", rf"{ours}.gamma\3"),
        Rule(rf"{block}\.(norm[12])(?:_post)?\.(.+)", rf"{ours}.\3.\4"),
        *(
            Rule(rf"{block}\.modulation\.{theirs}\.(.+)", rf"{ours}.modulation.{name}.\3")
            for theirs, name in (("f", "input"), ("h", "mix"), ("proj", "output"), ("norm", "norm"))
        ),
        Rule(rf"{block}\.modulation\.focal_layers\.(\d+)\.0\.weight", rf"{ours}.modulation.contexts.\3.weight"),
        Rule(rf"{block}\.mlp\.fc1\.(.+)", rf"{ours}.mlp.0.\3"),
        Rule(rf"{block}\.mlp\.fc2\.(.+)", rf"{ours}.mlp.2.\3"),
    ]


PATCHES = "trunk.patch_embed.projection.weight"
"""The kernel that cuts the frames of a plain transformer into patches: as large as its stride."""


def fit_kernels(state: State, own: State) -> dict[str, Tensor]:
    """Fit convolutions of a backbone to a model's: the same function, but for patches of another size.

    1x1 convolutions become linear layers. Kernels are put into the middle of larger ones: FocalNet's segmentation
    models widen those of their classification models. Patches are resized bicubically, as EVA-01's
    `interpolate_patch_14to16.py` does.
    """
    fitted = {}
    for key, value in state.items():
        if key in own and value.ndim == 4:
            size = own[key].shape[2:]
            if not size:
                value = value.flatten(1)
            elif key.endswith(PATCHES) and value.shape[2:] != size:
                value = F.interpolate(value.float(), size=size, mode="bicubic", align_corners=False)
            elif (margin := (size[-1] - value.shape[-1]) // 2) > 0:
                value = F.pad(value, (margin,) * 4)
        fitted[key] = value
    return fitted


def convert_backbone(state: State, backbone: nn.Module, source: str = "weights") -> dict[str, Tensor]:
    """Convert a timm state for one of our backbones; output norms, which timm's models lack, keep their own values."""
    tables = {SwinTransformer: swin_table, FocalNet: focalnet_table}
    if type(backbone) in tables:
        norms = {name: value for name, value in backbone.state_dict().items() if name.startswith("norms.")}
        converted = convert(state, tables[type(backbone)](), source)
        if isinstance(backbone, FocalNet):
            converted = fit_kernels(converted, backbone.state_dict())
        return {**converted, **norms}
    if isinstance(backbone, ResNet):
        return convert(state, resnet_table(len(backbone.stem) > 3), source)
    if isinstance(backbone, HRNet):
        return convert(state, HRNET, source)
    raise InputError(f"{source}: no converter from timm for {type(backbone).__name__}")


def load_pretrained(backbone: nn.Module, name: str) -> None:
    """Download timm's weights `name` and put them into our backbone of the same shape.

    Raises:
        InputError: the weights cannot be had, or do not fit.
    """
    source = f"timm {name}"
    load_state(backbone, convert_backbone(download(name), backbone, source), source)


def download(name: str) -> dict[str, Tensor]:
    """Return the weights of timm's model `name`.

    Raises:
        InputError: they cannot be had.
    """
    return pretrained_model(name).state_dict()
