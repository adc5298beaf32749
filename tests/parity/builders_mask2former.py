"""Builders for cases of Mask2Former: heads, whole models, matching and losses, of mmdet, ViT-Adapter, transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import builders_mmseg
import numpy as np
import torch
from cases import FOLDER, Builder, Case
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.losses.mask_points import class_presence
from everyframe.losses.mask_set import MaskSetLoss, assign, matching_costs, point_losses
from everyframe.models.backbones.swin import SwinTransformer
from everyframe.models.convert import mask2former, mmseg
from everyframe.models.convert.keys import convert, nested
from everyframe.models.convert.mask2former_config import hf_head_options, hf_swin_options
from everyframe.models.convert.mmseg_config import build_backbone, build_head
from everyframe.models.heads.mask2former.head import Mask2FormerHead, semantic_scores
from everyframe.models.heads.mask2former.transformer_decoder import mask_logits
from everyframe.models.ops.resize import resize
from everyframe.models.state import load_state, read_state


def head(case: Case) -> dict[str, Tensor]:
    """`Mask2FormerHead` of mmdet 2.x or 3.x alone; its keys without prefix, or under `decode_head.`."""
    features = case.features()
    config = case.args["head"]
    model = build_head(config, [x.shape[1] for x in features], [4 << i for i in range(len(features))])
    prefix = "decode_head." if all(key.startswith("decode_head.") for key in case.state) else ""
    load_state(model, convert(case.state, nested(mask2former.MASK2FORMER, prefix, ""), case.path), case.path)
    embedding = model.eval().embed(features)
    outputs = all_predictions(model, embedding)
    size = case.outputs["semantic"].shape[-2:] if model.upsample_first else None
    memory = {f"memory.{i}": embedding[f"memory{i}"] for i in range(len(features) - 1)}
    layers = len(model.layers)
    return {
        **outputs,
        **memory,
        "mask_features": embedding["pixels"],
        "semantic": semantic_scores(outputs[f"cls.{layers}"], outputs[f"mask.{layers}"], size),
    }


def all_predictions(model: Mask2FormerHead, embedding: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class and mask logits before the first layer and after each."""
    model.training = True  # of the head alone: it then returns all predictions; its parts stay in eval mode
    outputs = model.predict(embedding)
    model.training = False
    named = {}
    for i, (classes, masks) in enumerate(
        zip(outputs["class_logits"].unbind(1), outputs["mask_embeddings"].unbind(1), strict=True)
    ):
        named |= {f"cls.{i}": classes, f"mask.{i}": mask_logits(masks, outputs["pixels"])}
    return named


def encoder_decoder(case: Case) -> dict[str, Tensor]:
    """A whole mmseg model; those with per-pixel heads are none of our business here."""
    config = case.args["model"]
    if not isinstance(config["decode_head"], dict) or config["decode_head"]["type"] != "Mask2FormerHead":
        return builders_mmseg.encoder_decoder(case)
    body = build_backbone(config["backbone"])
    top = build_head(config["decode_head"], body.channels, body.strides)
    model = nn.ModuleDict({"backbone": body, "head": top})
    load_state(model, mmseg.convert_model(case.state, config, case.path), case.path)
    return run_whole(body.eval(), top.eval(), case.inputs["image"])


def run_whole(body: nn.Module, top: Mask2FormerHead, image: Tensor) -> dict[str, Tensor]:
    """Class and mask logits of the last prediction, and scores at the size of the image."""
    outputs = top.predict(top.embed(body(image)))
    masks = mask_logits(outputs["mask_embeddings"][:, -1], outputs["pixels"])
    scores = top.semantic(outputs)
    return {
        "cls": outputs["class_logits"][:, -1],
        "mask": masks,
        "semantic": resize(scores, image.shape[-2:]),
    }


def losses(case: Case) -> dict[str, Tensor]:
    """Costs, assignment and losses at given points."""
    logits, masks = case.inputs["cls_logits"], case.inputs["mask_logits"]
    classes, target = case.inputs["gt_labels"], case.inputs["gt_masks"]
    queries, k = logits.shape[0], logits.shape[1] - 1
    loss = MaskSetLoss(points=masks.shape[1])
    weights = (loss.cost_class, loss.cost_mask, loss.cost_dice)
    costs = [w * c[0] for w, c in zip(weights, matching_costs(logits[None], masks[None], classes, target), strict=True)]
    found = torch.from_numpy(assign(sum(costs)[None, None].numpy(), np.ones((1, len(classes)), dtype=bool)))
    assigned = torch.zeros(queries, dtype=torch.long)
    assigned[found[:, 2]] = found[:, 3] + 1
    labels = torch.full((queries,), k)
    labels[found[:, 2]] = classes[found[:, 3]]
    entropy, dice = point_losses(masks[found[:, 2]], target[found[:, 3]])
    class_weights = torch.tensor([1.0] * k + [loss.no_object])
    probability, chosen = masks[found[:, 2]].sigmoid(), target[found[:, 3]]
    squared = 1 - 2 * (probability * chosen).sum(1) / ((probability**2).sum(1) + (chosen**2).sum(1) + 2e-3)
    return {
        "cost_cls": costs[0],
        "cost_mask": costs[1],
        "cost_dice": costs[2],
        "assigned_gt": assigned,
        "labels": labels,
        "loss_cls": 2 * F.cross_entropy(logits, labels, class_weights),
        "loss_mask": 5 * entropy.mean(),
        "loss_dice": 5 * dice.mean(),
        "loss_dice_naive_each": dice,
        "loss_dice_squared": squared,
    }


def training_loss(case: Case) -> dict[str, Tensor]:
    """`loss_single`: one prediction of a batch, every random draw replayed."""
    class_logits, masks = case.inputs["cls_logits"], case.inputs["mask_logits"]
    n, queries, _ = class_logits.shape
    labels = torch.stack([_label_map(case, i) for i in range(n)])
    config = case.args["train_cfg"]
    costs = {f"cost_{name}": config["assigner"][f"{part}_cost"]["weight"]
             for name, part in (("class", "cls"), ("mask", "mask"), ("dice", "dice"))}  # fmt: skip
    head_config = case.args["head"]
    loss = MaskSetLoss(
        **costs,
        no_object=head_config["loss_cls"]["class_weight"][-1],
        points=config["num_points"],
        oversample=config["oversample_ratio"],
        importance=config["importance_sample_ratio"],
        respect_ignore=False,
    )
    # The masks themselves as pixel features: then each query's embedding is a unit vector.
    embeddings = torch.eye(queries).expand(n, 1, queries, queries)
    given = (class_logits[:, None], embeddings, masks, labels)
    values = loss(*given, draw=_Replay(case))
    matches = loss.match(*given, class_presence(labels), draw=_Replay(case))
    assigned = torch.full((n, queries), class_logits.shape[-1] - 1)
    assigned[matches.image, matches.query] = matches.klass
    matched = torch.zeros(n, queries)
    matched[matches.image, matches.query] = 1
    weight = {name: head_config[f"loss_{name}"]["loss_weight"] for name in ("cls", "mask", "dice")}
    return {
        "labels": assigned,
        "matched": matched,
        "num_pos": torch.tensor(len(matches.image)),
        "loss_cls": weight["cls"] * values["class"],
        "loss_mask": (weight["mask"] * values["mask"]).view_as(case.outputs["loss_mask"]),
        "loss_dice": (weight["dice"] * values["dice"]).view_as(case.outputs["loss_dice"]),
    }


def _label_map(case: Case, i: int) -> Tensor:
    masks, classes = case.inputs[f"gt_masks.{i}"], case.inputs[f"gt_labels.{i}"]
    labels = torch.full(masks.shape[1:], 255, dtype=torch.uint8)
    for mask, k in zip(masks, classes, strict=True):
        labels[mask > 0] = k.to(torch.uint8)
    return labels


class _Replay:
    """Recorded random numbers, in the order of their use."""

    def __init__(self, case: Case) -> None:
        self.left = [case.inputs[f"rand.{i}"] for i in range(sum(name.startswith("rand.") for name in case.inputs))]

    def __call__(self, *shape: int, device: torch.device | None = None) -> Tensor:
        drawn = self.left.pop(0)
        assert drawn.shape == shape
        return drawn


def transformers_model(case: Case) -> dict[str, Tensor]:
    """`Mask2FormerForUniversalSegmentation` with its `save_pretrained` folder beside the case."""
    folder = _folder(case)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    body = SwinTransformer(**hf_swin_options(config["backbone_config"]))
    top = Mask2FormerHead(body.channels, body.strides, len(config["id2label"]), **hf_head_options(config))
    rules = nested(mask2former.HF_SWIN, "model.pixel_level_module.encoder.", "backbone.")
    state = mask2former.join_projections(read_state(folder / "model.safetensors"))
    model = nn.ModuleDict({"backbone": body, "head": top}).eval()
    load_state(model, convert(state, [*rules, *nested(mask2former.HF_HEAD, "", "head.")], folder), folder)
    maps = body(case.inputs["pixel_values"])
    outputs = all_predictions(top, top.embed(maps))
    layers = len(top.layers)
    classes, masks = outputs[f"cls.{layers}"], outputs[f"mask.{layers}"]
    got = {f"backbone.{i}": x for i, x in enumerate(maps)}
    got |= {f"aux_class.{i}": outputs[f"cls.{i}"] for i in range(layers)}
    got |= {f"aux_mask.{i}": outputs[f"mask.{i}"] for i in range(layers)}
    # Their post-processing resizes all masks to 384 x 384 first.
    scores = semantic_scores(classes, masks, (384, 384))
    for i, size in enumerate(case.args["target"]):
        resized = resize(scores[i : i + 1], tuple(size))[0]
        got |= {f"semantic_scores.{i}": resized, f"semantic.{i}": resized.argmax(0)}
    return {**got, "class_queries_logits": classes, "masks_queries_logits": masks}


def _folder(case: Case) -> Path:
    beside = case.path.parent / case.path.stem.removesuffix("_io")
    return beside if beside.is_dir() else FOLDER / "hf_mask2former"


MMSEG: dict[str, Builder] = {"Mask2FormerHead": head, "EncoderDecoder": encoder_decoder}
ADAPTER: dict[str, Builder] = {
    "Mask2FormerHead": head,
    "CrossEntropyLoss, DiceLoss, MaskHungarianAssigner, match costs": losses,
    "Mask2FormerHead.loss_single": training_loss,
}
TRANSFORMERS: dict[str, Builder] = {"Mask2FormerForUniversalSegmentation": transformers_model}
"""Classes of mmsegmentation, of ViT-Adapter, of transformers -> builder."""
