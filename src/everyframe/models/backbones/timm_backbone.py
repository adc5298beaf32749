"""Any timm model that returns feature maps, behind the backbone contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.models.ops.padding import crop_maps, pad_frame
from everyframe.models.pretrained import pretrained_model


class TimmBackbone(nn.Module):
    """A timm model by name (`features_only`), with maps [N, C, h, w] whose strides hold at any frame size.

    Three things differ among timm's models, and are evened out here: some return [N, h, w, C]; some need a frame whose
    sides are multiples of their coarsest stride, or drop the last pixels of others, so the frame is padded with zeros
    to the right and bottom; and some leave out the norms that segmentation heads expect.

    Args:
        name: timm's model name, with or without the tag of its weights, for example "convnext_tiny.fb_in22k".
        pretrained: whether timm downloads its weights.
        out_indices: which of timm's maps to return; None returns all of stride 4 and coarser.
        output_stride: coarsest stride, for models that timm can dilate; None leaves the model as it is.
        output_norms: whether each map goes through a LayerNorm over its channels.
        model_args: further arguments of the timm model, for example {"drop_path_rate": 0.3}.

    Attributes:
        channels: channels of each map.
        strides: pixels per cell of each map: a map has ceil(H / stride) rows and ceil(W / stride) columns.

    Raises:
        InputError: timm does not know the name, or the model has no feature maps.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        out_indices: Sequence[int] | None = None,
        output_stride: int | None = None,
        output_norms: bool = False,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        import timm

        options = {**_any_size_options(name), **(model_args or {})}
        if output_stride is not None:
            options["output_stride"] = output_stride
        strides, any_size = _probe(name, options)
        if out_indices is None:
            out_indices = [i for i, stride in enumerate(strides) if stride >= 4]
        make: Callable[..., Any] = pretrained_model if pretrained else timm.create_model
        self.model = make(name, features_only=True, out_indices=tuple(out_indices), **options)
        self.channels = tuple(self.model.feature_info.channels())
        self.strides = tuple(self.model.feature_info.reduction())
        self.channels_last = _channels_last(self.model)
        self.multiple = 1 if any_size else max(self.strides)
        self.norms = nn.ModuleList(nn.LayerNorm(c) if output_norms else nn.Identity() for c in self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, C, h, w] per stage."""
        maps = self.model(pad_frame(x, self.multiple))
        if self.channels_last:
            maps = [y.permute(0, 3, 1, 2) for y in maps]
        cropped = crop_maps(maps, x.shape[2:], self.strides)
        return [norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, y in zip(self.norms, cropped, strict=True)]


def _channels_last(model: Any) -> bool:
    return str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")


def _probe(name: str, options: Mapping[str, Any]) -> tuple[list[int], bool]:
    """Build the model without weights and try it: (strides of all its maps, whether they keep all of an odd frame)."""
    import timm

    with torch.device("meta"), torch.no_grad():
        try:
            model: Any = timm.create_model(name, features_only=True, **options).eval()
        except (AttributeError, RuntimeError, TypeError) as error:
            raise InputError(f"timm model {name!r} cannot return feature maps: {error}") from None
        strides = list(model.feature_info.reduction())
        side = 2 * max(strides) + 3
        try:
            maps = model(torch.zeros(1, 3, side, side))
        except (AssertionError, RuntimeError):  # how timm's models refuse a size
            return strides, False
    axis = 1 if _channels_last(model) else 2
    return strides, all(y.shape[axis] == -(-side // s) for y, s in zip(maps, strides, strict=True))


def _any_size_options(name: str) -> dict[str, Any]:
    """Check the name; return the arguments that free the model from the frame size of its training."""
    import timm

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = timm.list_models(f"{architecture.split('_')[0]}*")[:8]
        raise InputError(
            f"timm has no model {architecture!r}" + (f"; it has for example {', '.join(near)}" if near else "")
        )
    if architecture.startswith("swin"):
        fixed_windows = {"always_partition": True} if architecture.startswith("swin_") else {}
        return {"strict_img_size": False, **fixed_windows}
    if architecture.startswith(("vit_", "deit", "beit", "eva")):
        return {"dynamic_img_size": True}
    return {}
