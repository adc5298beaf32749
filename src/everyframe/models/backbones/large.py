"""Large backbones by name: ViT-Adapter on BEiT, EVA-01 and DeiT, EVA-02, InternImage, FocalNet; and a plain ViT.

Published weights of the plain transformers come through timm; those of whole models through `everyframe convert`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from everyframe.models.backbones.beit import Beit
from everyframe.models.backbones.eva02 import Eva02
from everyframe.models.backbones.focalnet import FocalNet
from everyframe.models.backbones.intern_image import InternImage
from everyframe.models.backbones.standard import known, with_weights
from everyframe.models.backbones.vit import VisionTransformer
from everyframe.models.backbones.vit_adapter import ViTAdapter
from everyframe.models.backbones.window_vit import WindowVit

Size = int | Sequence[int]


def adapter(
    pretrained: bool,
    *,
    trunk: Callable[..., Any],
    weights: str | None,
    size: Size = 640,
    drop_path: float = 0.3,
    checkpointed: bool = False,
    adapter: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """ViT-Adapter on a trunk.

    Args:
        pretrained: whether the trunk's weights are downloaded; the adapter's own start fresh.
        trunk: builds it.
        weights: timm's model with weights for the trunk, or None.
        size: of the frames that the trunk's positions are learned for, a side or (H, W); others are fitted.
        drop_path: of the trunk's blocks, rising to this, and of the extractors, in training.
        checkpointed: see `ViTAdapter`.
        adapter: further options of `ViTAdapter`.
        **options: of the trunk.
    """
    side = (size, size) if isinstance(size, int) else (size[0], size[1])
    body = trunk(size=side, drop_path=drop_path, **options)
    depth = len(body.blocks)
    groups = [(i * depth // 4, (i + 1) * depth // 4 - 1) for i in range(4)]
    chosen = {"groups": groups, "drop_path": drop_path, "checkpointed": checkpointed, **(adapter or {})}
    if pretrained:
        from everyframe.models.convert.vit_adapter import load_trunk

        load_trunk(body, known(weights))
    return ViTAdapter(body, **chosen)


def _adapted(trunk: Callable[..., Any], weights: str | None, **chosen: Any) -> Callable[..., nn.Module]:
    """Return the builder of an adapter; `chosen` are defaults of `adapter`."""
    return partial(adapter, trunk=trunk, weights=weights, **chosen)


_BEIT_LARGE = partial(Beit, width=1024, depth=24, heads=16)
_EVA_GIANT = partial(
    Beit, width=1408, depth=40, heads=16, mlp_ratio=6144 / 1408, relative_positions=False, absolute_positions=True,
    layer_scale=None,
)  # fmt: skip
_WIDE = {"heads": 16, "ratio": 0.5}
_EVA02 = partial(with_weights, build=Eva02)
_FOCAL = partial(with_weights, build=FocalNet)
_INTERN = partial(with_weights, build=InternImage)
_FOCAL_LARGE = {
    "width": 192, "depths": (2, 2, 18, 2), "overlap": True, "post_norm": True, "layer_scale": 1e-4, "drop_path": 0.3,
}  # fmt: skip

LARGE: dict[str, Callable[..., nn.Module]] = {
    "beit-adapter-large": _adapted(
        _BEIT_LARGE, "beit_large_patch16_224.in22k_ft_in22k_in1k", adapter={**_WIDE, "gamma": 1e-6}
    ),
    "beitv2-adapter-large": _adapted(
        _BEIT_LARGE, "beitv2_large_patch16_224.in1k_ft_in22k", size=896, adapter={**_WIDE, "gamma": 1e-6}
    ),
    "eva-adapter-giant": _adapted(_EVA_GIANT, None, size=896, drop_path=0.5, adapter=_WIDE),
    "vit-adapter-small": _adapted(
        partial(WindowVit, width=384, depth=12, heads=6), "deit_small_patch16_224.fb_in1k", size=224, drop_path=0.2,
        adapter={"heads": 6, "ratio": 1.0},
    ),
    "vit-adapter-base": _adapted(
        partial(WindowVit, width=768, depth=12, heads=12), "deit_base_patch16_224.fb_in1k", size=224,
        adapter={"heads": 12, "ratio": 0.5},
    ),
    "vit-base": partial(
        with_weights, build=VisionTransformer, width=768, depth=12, heads=12, drop_path=0.1, out_indices=(2, 5, 8, 11)
    ),
    "eva02-large": partial(_EVA02, width=1024, depth=24, heads=16, drop_path=0.2),
    "internimage-tiny": partial(_INTERN, post_norm=False, drop_path=0.2),
    "internimage-base": partial(
        _INTERN, width=112, depths=(4, 4, 21, 4), groups=(7, 14, 28, 56), drop_path=0.4
    ),
    "internimage-xl": partial(
        _INTERN, width=192, depths=(5, 5, 24, 5), groups=(12, 24, 48, 96), offset_scale=2.0, drop_path=0.4
    ),
    "focalnet-tiny": partial(
        _FOCAL, levels=(3,) * 4, drop_path=0.2, weights="focalnet_tiny_lrf.ms_in1k"
    ),
    "focalnet-base": partial(
        _FOCAL, width=128, depths=(2, 2, 18, 2), levels=(3,) * 4, drop_path=0.3,
        weights="focalnet_base_lrf.ms_in1k",
    ),
    "focalnet-large": partial(
        _FOCAL, levels=(4,) * 4, windows=(3,) * 4, **_FOCAL_LARGE, weights="focalnet_large_fl4.ms_in22k"
    ),
    "beit-adapter-micro": _adapted(
        partial(Beit, width=48, depth=4, heads=3, layer_scale=0.1), None, size=128, drop_path=0.0,
        adapter={"inner": 8, "heads": 3, "gamma": 0.1},
    ),
    "eva-adapter-micro": _adapted(
        partial(Beit, width=48, depth=4, heads=3, relative_positions=False, absolute_positions=True, layer_scale=None),
        None, size=128, drop_path=0.0, adapter={"inner": 8, "heads": 3, "gamma": 0.1},
    ),
    "vit-adapter-micro": _adapted(
        partial(WindowVit, width=48, depth=4, heads=3, windows=(7, None, 7, None)), None, size=128, drop_path=0.0,
        adapter={"inner": 8, "heads": 3, "gamma": 0.1},
    ),
    "eva02-micro": partial(
        _EVA02, width=48, depth=4, heads=3, size=(128, 128), rotary=8, out_indices=(0, 1, 2, 3)
    ),
    "internimage-micro": partial(_INTERN, width=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), mlp_ratio=2.0),
    "focalnet-micro": partial(_FOCAL, width=16, depths=(1, 1, 2, 1), windows=(3,) * 4),
}  # fmt: skip
"""Backbone -> builder `(pretrained, **options)`. Those called micro train from nothing within minutes on a CPU."""
