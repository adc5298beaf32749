"""Tiny models of transformers with random weights, one per family, and what the library itself makes of a frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from torch import Tensor, nn

from everyframe.models.transformers_model import TransformersModel

NAMES = ("road", "car", "sky", "car", "tree")
SIDE = 64
SIZES = [(75, 101), (101, 67)]


def config(kind: str, **options: Any) -> Any:
    """A tiny configuration. The same options go to all kinds that know them."""
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    return getattr(tf, f"{kind}Config")(**options, **names)


def swin() -> Any:
    return tf.SwinConfig(image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
                         out_features=[f"stage{k}" for k in range(1, 5)])  # fmt: skip


def segformer() -> tuple[nn.Module, Any]:
    sizes = config("Segformer", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
                   patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
                   decoder_hidden_size=16)  # fmt: skip
    processor = tf.SegformerImageProcessor(size={"height": SIDE, "width": SIDE + 32}, do_reduce_labels=True)
    return tf.SegformerForSemanticSegmentation(sizes), processor


def upernet() -> tuple[nn.Module, Any]:
    backbone = tf.ConvNextConfig(num_stages=4, hidden_sizes=[8] * 4, depths=[1] * 4,
                                 out_features=[f"stage{k}" for k in range(1, 5)])  # fmt: skip
    sizes = config("UperNet", backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], auxiliary_channels=8,
                   auxiliary_in_channels=8)  # fmt: skip
    processor = tf.SegformerImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.1, 0.2, 0.3])
    return tf.UperNetForSemanticSegmentation(sizes), processor


def vit(kind: str, **options: Any) -> Any:
    return config(kind, hidden_size=16, num_attention_heads=2, image_size=SIDE, patch_size=16, **options)


def beit() -> tuple[nn.Module, Any]:
    sizes = vit("Beit", num_hidden_layers=4, intermediate_size=16, out_indices=[1, 2, 3, 4], pool_scales=[1, 2],
                use_relative_position_bias=True, auxiliary_channels=8)  # fmt: skip
    processor = tf.BeitImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    return tf.BeitForSemanticSegmentation(sizes), processor


def dpt() -> tuple[nn.Module, Any]:
    sizes = vit("DPT", num_hidden_layers=4, intermediate_size=16, backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[8] * 4, fusion_hidden_size=8)  # fmt: skip
    return tf.DPTForSemanticSegmentation(sizes), tf.DPTImageProcessor(size={"height": SIDE, "width": SIDE})


def maskformer() -> tuple[nn.Module, Any]:
    decoder = tf.DetrConfig(encoder_layers=1, decoder_layers=1, d_model=32, encoder_attention_heads=2,
                            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
                            num_queries=6)  # fmt: skip
    sizes = config("MaskFormer", backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32,
                   mask_feature_size=32)  # fmt: skip
    processor = tf.MaskFormerImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    return tf.MaskFormerForInstanceSegmentation(sizes), processor


def mask2former() -> tuple[nn.Module, Any]:
    sizes = config("Mask2Former", backbone_config=swin(), hidden_dim=32, feature_size=32, mask_feature_size=32,
                   num_queries=6, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
                   encoder_feedforward_dim=16, dim_feedforward=16)  # fmt: skip
    processor = tf.Mask2FormerImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    return tf.Mask2FormerForUniversalSegmentation(sizes), processor


def eomt(kind: str = "Eomt", split: bool = True, **options: Any) -> tuple[nn.Module, Any]:
    sizes = vit(kind, num_hidden_layers=3, num_blocks=1, num_queries=6, **options)
    size = {"shortest_edge": SIDE, "longest_edge": None if split else SIDE}
    processor = tf.EomtImageProcessor(size=size, do_split_image=split, do_pad=not split)
    return getattr(tf, f"{kind}ForUniversalSegmentation")(sizes), processor


def videomt() -> tuple[nn.Module, Any]:
    sizes = vit("Videomt", num_hidden_layers=3, num_blocks=1, num_queries=6)
    processor = tf.VideomtVideoProcessor(size={"height": SIDE, "width": SIDE})
    return tf.VideomtForUniversalSegmentation(sizes), processor


BUILD: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "beit": beit,
    "dpt": dpt,
    "eomt": eomt,
    "eomt_dinov3": lambda: eomt("EomtDinov3", intermediate_size=32),
    "mask2former": mask2former,
    "maskformer": maskformer,
    "segformer": segformer,
    "upernet": upernet,
    "videomt": videomt,
    "padded": lambda: eomt(split=False),
}


def save(kind: str, folder: Path) -> None:
    """Write a model of `BUILD` and its processor."""
    torch.manual_seed(3)
    network, processor = BUILD[kind]()
    for name, parameter in network.named_parameters():
        # Weights that give label maps of more than one class.
        if parameter.ndim > 1 or name.endswith("mask_embedder.2.0.bias"):
            nn.init.normal_(parameter, std=2.0 if "class_predictor" in name else 0.4)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth random colours, uint8 [3, H, W]."""
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(coarse, size, mode="bicubic") * 255).clamp(0, 255).byte()[0]


def by_the_library(model: TransformersModel, image: Tensor) -> np.ndarray:
    """The label map of one frame as the library's documentation makes it, from a numpy picture."""
    pixels = image.permute(1, 2, 0).numpy()
    with torch.no_grad():
        inputs = model.processor(pixels[None] if model.input_type == "videos" else pixels, return_tensors="pt")
        outputs = model.network(**inputs)
        size = tuple(image.shape[-2:])
        return model.processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0].numpy()
