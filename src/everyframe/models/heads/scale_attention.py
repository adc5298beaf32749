"""Hierarchical multi-scale attention: a head that looks at the frame at several scales and learns where to trust which.

Tao, Sapra and Catanzaro, "Hierarchical Multi-Scale Attention for Semantic Segmentation" (2020). Any head that predicts
the logits of pixels can stand inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from everyframe.models.heads.base import Head, Outputs
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.ops.resize import resize
from everyframe.models.temporal.base import Embedding


class ScaleAttention(Head):
    """Runs a head on the frame at several scales; an attention per pixel says how much each scale counts.

    The attention of a scale says how much of its prediction enters that of the next larger one, so a model trained
    with two scales runs with any number of them. The embedding's "pixels" are those of scale 1 right before the
    classifier (in OCR, after the contexts have joined); other scales have "pixels@SCALE" beside them, and the
    attention of a scale is "attention@SCALE". In training the outputs hold each scale's own logits as "logits@SCALE".

    Args:
        head: predicts the logits of each scale.
        levels: number of maps that the backbone gives for one scale.
        train_scales: of the frames in training; 1 is one of them.
        test_scales: in eval mode, likewise; None: those of training. The paper adds 2. May be changed on a trained
            model.
        width: channels of the attention's convolutions.
        norm: see `ConvNormAct`.
    """

    def __init__(
        self,
        head: Head,
        levels: int,
        train_scales: Sequence[float] = (0.5, 1.0),
        test_scales: Sequence[float] | None = None,
        width: int = 256,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if head.predicts != "logits":
            raise ValueError(f"ScaleAttention: expected a head that predicts logits, came one for {head.predicts}")
        self.train_scales = _checked(train_scales)
        self.test_scales = self.train_scales if test_scales is None else _checked(test_scales)
        self.levels = levels
        self.num_classes, self.stride, self.channels = head.num_classes, head.stride, head.channels
        self.head = head
        self.attention = nn.Sequential(
            ConvNormAct(head.channels, width, 3, norm=norm),
            ConvNormAct(width, width, 3, norm=norm),
            nn.Conv2d(width, 1, 1, bias=False),
            nn.Sigmoid(),
        )

    @property
    def scales(self) -> tuple[float, ...]:
        """Scales in use: 1, then the others, large to small."""
        chosen = self.train_scales if self.training else self.test_scales
        return (1.0, *sorted((scale for scale in chosen if scale != 1), reverse=True))

    def maps(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """See `Head.maps`: the pyramid of each of `scales` after the other."""
        height, width = images.shape[-2:]
        sizes = [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in self.scales]
        return tuple(x for size in sizes for x in backbone(resize(images, size)))

    def embed(self, maps: Sequence[Tensor]) -> Embedding:
        """See `Head.embed`. The maps of scale 1 alone give the prediction of that scale."""
        count = len(maps) // self.levels
        if len(maps) != self.levels * count or count not in (1, len(self.scales)):
            raise ValueError(
                f"ScaleAttention: expected {self.levels} maps per scale of {self.scales}, came {len(maps)}"
            )
        pixels: dict[float, Tensor] = {}
        attention: dict[float, Tensor] = {}
        auxiliary: dict[float, Tensor] = {}
        for i, scale in enumerate(self.scales[:count]):
            embedding = self.head.embed(maps[i * self.levels : (i + 1) * self.levels])
            if "auxiliary" in embedding:
                auxiliary[scale] = embedding["auxiliary"]
            joined = self.head.join_context(embedding) if isinstance(self.head, OCRHead) else embedding["pixels"]
            pixels[scale] = joined
            if scale != max(self.scales[:count]):  # the largest is what the others are laid over
                attention[scale] = self.attention(joined)
        return {
            "pixels": pixels.pop(1.0),
            **{f"pixels@{scale:g}": x for scale, x in pixels.items()},
            **{f"attention@{scale:g}": x for scale, x in attention.items()},
            **({"auxiliary": fuse(auxiliary, attention)} if auxiliary else {}),
        }

    def predict(self, embedding: Embedding) -> Outputs:
        """See `Head.predict`."""
        pixels = {1.0: embedding["pixels"], **_by_scale(embedding, "pixels@")}
        logits = {scale: self._classify(x) for scale, x in pixels.items()}
        own = {f"logits@{scale:g}": x for scale, x in logits.items()} if self.training and len(logits) > 1 else {}
        return {"logits": fuse(logits, _by_scale(embedding, "attention@")), **own}

    def _classify(self, pixels: Tensor) -> Tensor:
        return self.head.predict({"fused" if isinstance(self.head, OCRHead) else "pixels": pixels})["logits"]


def fuse(values: Mapping[float, Tensor], attention: Mapping[float, Tensor]) -> Tensor:
    """Lay the predictions of several scales over each other, from the largest to the smallest.

    Where the next scale s is 1 or more: P = a_s P_s + (1 - a_s) D(P); below 1: P = U(a_s P_s) + (1 - U(a_s)) P (the
    paper's equation 1 and its inference with more scales). D and U resize to the other map's size.

    Args:
        values: scale -> [N, C, h, w]; 1 is among them.
        attention: scale -> a_s in 0..1, [N, 1, h', w'], for all scales but the largest.

    Returns:
        [N, C, h, w] at the size of scale 1.
    """
    largest, *smaller = sorted(values, reverse=True)
    total = values[largest]
    for scale in smaller:
        value = values[scale]
        share = resize(attention[scale], value.shape[-2:])
        if scale >= 1:
            total = share * value + (1 - share) * resize(total, value.shape[-2:])
        else:
            size = total.shape[-2:]
            total = resize(share * value, size) + (1 - resize(share, size)) * total
    return total


def hmsa(
    build: Callable[..., Head],
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    train_scales: Sequence[float] = (0.5, 1.0),
    test_scales: Sequence[float] | None = None,
    attention_width: int | None = None,
    **options: Any,
) -> Head:
    """Put the head that `build` makes of the other arguments under multi-scale attention (256 wide, or as the head)."""
    head = build(channels, strides, num_classes, **options)
    width = attention_width or min(256, head.channels)
    return ScaleAttention(head, len(channels), train_scales, test_scales, width)


def _checked(scales: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(scale) for scale in scales)
    if 1.0 not in numbers or min(numbers) <= 0 or len(set(numbers)) != len(numbers):
        raise ValueError(f"ScaleAttention: expected different scales above 0 and 1 among them, came {list(numbers)}")
    return numbers


def _by_scale(embedding: Embedding, prefix: str) -> dict[float, Tensor]:
    return {float(name.removeprefix(prefix)): x for name, x in embedding.items() if name.startswith(prefix)}
