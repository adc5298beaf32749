"""Mask2Former of transformers at the widths of one of ours, on the same backbone: to measure the two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.models.heads.mask2former.head import Mask2FormerHead
from everyframe.models.heads.mask2former.pixel_decoder import EncoderLayer
from everyframe.models.heads.mask2former.transformer_decoder import DecoderLayer
from everyframe.models.segmenter import Backbone, Segmenter


class TransformersPeer(nn.Module):
    """Pixel decoder, transformer decoder, matching and set loss of transformers behind a backbone of ours.

    Args:
        model: `Mask2FormerHead` on any backbone of four maps; its backbone is shared, not copied.
        points: at which the set loss compares masks.

    Raises:
        InputError: another head, or transformers is not installed.
    """

    def __init__(self, model: Segmenter, points: int = 12_544) -> None:
        super().__init__()
        head = model.head
        if not isinstance(head, Mask2FormerHead):
            raise InputError(
                f"beside transformers: expected a model whose head is Mask2Former, came {type(head).__name__}; give a "
                f"recipe such as mask2former-swin-small, or leave --beside out"
            )
        assert isinstance(model.backbone, Backbone)
        channels = [model.backbone.channels[i] for i in head.index]
        self.mean, self.std = model.mean, model.std
        self.network = _network(head, channels, points)
        self.network.model.pixel_level_module.encoder = _Maps(model.backbone, head.index)

    def semantic(self, images: Tensor) -> Tensor:
        """Return class scores of frames, uint8 [N, 3, H, W] -> [N, K, h, w]: sums over queries, as in the paper."""
        out = self.network(pixel_values=(images - self.mean) / self.std)
        classes = out.class_queries_logits.softmax(-1)[..., :-1]
        return torch.einsum("nqk,nqhw->nkhw", classes, out.masks_queries_logits.sigmoid())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the set loss of frames, uint8 [N, 3, H, W], and label maps, uint8 [N, H, W] with 255 left out."""
        present = [found[found != IGNORE].long() for found in (label.unique() for label in labels)]
        masks = [(label == found[:, None, None]).float() for label, found in zip(labels, present, strict=True)]
        images = (images - self.mean) / self.std
        return self.network(pixel_values=images, mask_labels=masks, class_labels=present).loss


class _Maps(nn.Module):
    """What transformers takes for a backbone."""

    def __init__(self, backbone: nn.Module, index: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.index = backbone, index

    def forward(self, images: Tensor) -> SimpleNamespace:
        maps = self.backbone(images)
        return SimpleNamespace(feature_maps=[maps[i] for i in self.index])


def _network(head: Mask2FormerHead, channels: list[int], points: int) -> Any:
    """Build the model of transformers, with random weights and without a backbone."""
    try:
        import transformers as tf
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder
    except ImportError:
        raise InputError(
            "beside transformers: expected the package, found none; pip install 'everyframe[hub]'"
        ) from None

    layer, encoder = head.layers[0], head.pixel_decoder.layers
    assert isinstance(layer, DecoderLayer)
    assert isinstance(encoder[0], EncoderLayer)
    # Replaced below; the smallest that it takes.
    swin: dict[str, Any] = {
        "image_size": 32, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2,
        "out_features": [f"stage{k}" for k in range(1, 5)],
    }  # fmt: skip
    config = tf.Mask2FormerConfig(
        backbone_config=tf.SwinConfig(**swin),
        feature_size=head.channels, mask_feature_size=head.channels, hidden_dim=head.channels,
        encoder_layers=len(encoder), encoder_feedforward_dim=_hidden(encoder[0].mlp),
        decoder_layers=len(head.layers) + 1,  # it counts the prediction before the first layer
        dim_feedforward=_hidden(layer.mlp), num_attention_heads=layer.cross_attention.heads,
        num_queries=head.query_embed.num_embeddings, train_num_points=points,
        id2label={k: str(k) for k in range(head.num_classes)},
    )  # fmt: skip
    network = tf.Mask2FormerForUniversalSegmentation(config)
    network.model.pixel_level_module.decoder = Mask2FormerPixelDecoder(config, feature_channels=channels)
    return network


def _hidden(mlp: nn.Sequential) -> int:
    """Return the width between the two layers of a perceptron."""
    first = mlp[0]
    assert isinstance(first, nn.Linear)
    return first.out_features
