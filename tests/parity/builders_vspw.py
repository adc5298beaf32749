"""Builders for cases of the VSPW baseline code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from cases import Builder, Case
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.flow import GivenFlow
from everyframe.frames import IGNORE, Role
from everyframe.losses.temporal import motion_loss, photometric_mask
from everyframe.models.convert import vspw
from everyframe.models.convert.keys import Table, convert
from everyframe.models.heads.base import Head
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.heads.psp import PSPHead
from everyframe.models.ops.warp import warp
from everyframe.models.segmenter import IMAGENET_MEAN, IMAGENET_STD
from everyframe.models.state import load_state
from everyframe.models.temporal.base import Embedding, Features, TemporalModule
from everyframe.models.temporal.identity import Identity
from everyframe.models.temporal.netwarp import NetWarp
from everyframe.models.temporal.tcb import PyramidBlending, RegionBlending

AUXILIARY_WEIGHT = 0.4


# -- heads, from the widths of a case ---------------------------------------------------------------------------------


def psp_head(case: Case) -> PSPHead:
    encoder, width, _ = case.args["widths"]
    shape = ((encoder // 2, encoder), (8, 8), case.args["classes"])
    auxiliary = FCNHead(*shape, index=0, width=encoder // 4, num_convs=1, concat_input=False)
    return PSPHead(*shape, width=width, auxiliary=auxiliary)


def ocr_head(case: Case) -> OCRHead:
    encoder, width, key_width = case.args["widths"]
    return OCRHead((encoder // 2, encoder), (8, 8), case.args["classes"], width=width, key_width=key_width)


def loaded(case: Case, head: Head, temporal: TemporalModule, table: Table) -> tuple[Head, TemporalModule]:
    state = convert(case.state, table)
    if isinstance(temporal, NetWarp):
        state = vspw.join_factors(state)
    load_state(nn.ModuleDict({"head": head, "temporal": temporal}), state, case.path)
    return head.eval(), temporal.eval()


# -- the reference's losses, which resize log-probabilities -----------------------------------------------------------


def resized(x: Tensor, case: Case) -> Tensor:
    return F.interpolate(x, tuple(case.args["seg"]), mode="bilinear", align_corners=False)


def nll(logits: Tensor, labels: Tensor, case: Case) -> Tensor:
    return F.nll_loss(resized(logits.log_softmax(1), case), labels.squeeze(1), ignore_index=IGNORE)


def accuracy(logits: Tensor, labels: Tensor, case: Case) -> Tensor:
    """Ignored pixels count as wrong; the prediction is that of the resized log-probabilities."""
    return (resized(logits.log_softmax(1), case).argmax(1) == labels.squeeze(1)).float().mean()


# -- images -----------------------------------------------------------------------------------------------------------


def psp(case: Case) -> dict[str, Tensor]:
    """`PPMDeepsup`."""
    model = psp_head(case)
    load_state(model, convert(case.state, vspw.PSP), case.path)
    outputs, coarse = _run(model, case)
    return {**outputs, "deepsup_log_probs": coarse}


def ocr(case: Case) -> dict[str, Tensor]:
    """`SpatialOCRNet`."""
    model = ocr_head(case)
    load_state(model, convert(case.state, vspw.OCR), case.path)
    outputs, coarse = _run(model, case)
    return {**outputs, "dsn_log_probs": coarse}


def _run(model: Head, case: Case) -> tuple[dict[str, Tensor], Tensor]:
    maps = [case.inputs["conv4"], case.inputs["conv5"]]
    logits = model.eval()(maps)
    outputs = {"logits": logits, "log_probs": logits.log_softmax(1), "probs": resized(logits, case).softmax(1)}
    return outputs, model.auxiliary(maps).log_softmax(1)


# -- TCB --------------------------------------------------------------------------------------------------------------


def clip_features(
    inputs: Mapping[str, Tensor], prefix: str, frames: int, head: Head, temporal: TemporalModule
) -> list[Features]:
    """Features of the frames of a clip, frame-major in the batch, the query last."""
    maps = [x.chunk(frames) for x in (inputs[f"{prefix}conv4"], inputs[f"{prefix}conv5"])]
    return [Features(pair, temporal.embed(pair, head)) for pair in zip(*maps, strict=True)]


def run_clip(frames: Sequence[Features], head: Head, temporal: TemporalModule) -> tuple[Tensor, Embedding]:
    *others, query = frames
    memory = temporal.gather(others, [Role.ADJACENT] * len(others), head)
    embedding, _ = temporal(query, memory, head)
    return head.predict(embedding)["logits"], embedding


def clip_labels(case: Case) -> Tensor:
    """Labels of all frames in the order of the maps: the others, then the query."""
    others = [case.inputs[f"clip_labels.{i}"] for i in range(case.args["clip_num"])]
    return torch.cat([*others, case.inputs["label"]])


def clip_outputs(case: Case, logits: Tensor, coarse: Tensor) -> dict[str, Tensor]:
    label = case.inputs["label"]
    main = nll(logits, label, case)
    return {
        "logits": logits,
        "probs": resized(logits, case).softmax(1),
        "loss_main": main,
        "loss": main + AUXILIARY_WEIGHT * nll(coarse, clip_labels(case), case),
        "acc": accuracy(logits, label, case),
    }


def tcb_psp(case: Case) -> dict[str, Tensor]:
    """`Clip_PSP`."""
    head = psp_head(case)
    temporal = PyramidBlending(head, case.args["widths"][0], weighted=case.args["psp_weight"], form="vspw")
    loaded(case, head, temporal, vspw.TCB_PSP)
    logits, _ = run_clip(clip_features(case.inputs, "", case.args["clip_num"] + 1, head, temporal), head, temporal)
    coarse = head.auxiliary([case.inputs["conv4"], case.inputs["conv5"]])
    return {**clip_outputs(case, logits, coarse), "deepsup_logits": coarse}


def tcb_ocr(case: Case) -> dict[str, Tensor]:
    """`ClipOCRNet`."""
    head = ocr_head(case)
    head, temporal = loaded(case, head, RegionBlending(head), vspw.TCB_OCR)
    if case.args.get("memory_num"):
        return _tcb_ocr_memory(case, head)
    logits, embedding = run_clip(
        clip_features(case.inputs, "", case.args["clip_num"] + 1, head, temporal), head, temporal
    )
    coarse = head.auxiliary([case.inputs["conv4"], case.inputs["conv5"]])
    context = embedding["regions"].transpose(1, 2).unsqueeze(-1)
    return {**clip_outputs(case, logits, coarse), "dsn_logits": coarse, "context": context}


def _tcb_ocr_memory(case: Case, head: Head) -> dict[str, Tensor]:
    temporal = RegionBlending(head, memory="vspw_compat", memory_frames=case.args["memory_num"])
    outputs: dict[str, Tensor] = {}
    bank = None
    for i in range(case.args["steps"]):
        frames = clip_features(case.inputs, f"step{i}.", case.args["clip_num"] + 1, head, temporal)
        if i in case.args["clean"]:
            bank = None
        step = torch.stack([frame.embedding["regions"] for frame in frames], dim=1)
        used, bank = temporal.remember(bank, step, torch.zeros(len(step), dtype=torch.bool))
        regions = used.mean()
        outputs[f"logits.{i}"] = head.predict({**frames[-1].embedding, "regions": regions})["logits"]
        outputs[f"context.{i}"] = regions.transpose(1, 2).unsqueeze(-1)
        outputs[f"memory_len.{i}"] = torch.tensor(bank.sets.shape[1])
    return outputs


# -- NetWarp and ETC: batches of (current, previous) ------------------------------------------------------------------


def raw_image(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (x * std + mean) * 255


def pair_auxiliary(case: Case, head: Head, with_regions: bool) -> Tensor:
    """Of PSP heads the current frame's; of OCR heads predictions (current, previous) on labels (previous, current)."""
    coarse, label = head.auxiliary([case.inputs["conv4"], case.inputs["conv5"]]), case.inputs["label"]
    if with_regions:
        return nll(coarse, torch.cat([case.inputs["prev_label"], label]), case)
    return nll(coarse.chunk(2)[0], label, case)


def netwarp(case: Case) -> dict[str, Tensor]:
    """`NetWarp` and `NetWarp_ocr`."""
    with_regions = "ocr" in case.reference
    head = ocr_head(case) if with_regions else psp_head(case)
    flow = GivenFlow(case.inputs["flow"])
    temporal = NetWarp(head, case.args["widths"][0], flow, form="vspw", cut_threshold=2)  # the frames are noise
    loaded(case, head, temporal, vspw.NETWARP_OCR if with_regions else vspw.NETWARP_PSP)
    maps = [x.chunk(2) for x in (case.inputs["conv4"], case.inputs["conv5"])]
    images = (raw_image(case.inputs["image"]), raw_image(case.inputs["prev_image"]))
    current, previous = (Features(pair, {}, image) for pair, image in zip(zip(*maps, strict=True), images, strict=True))
    refined: list[Tensor] = []
    temporal.flow_cnn.register_forward_hook(lambda module, inputs, output: refined.append(output))
    embedding, _ = temporal(current, temporal.gather([previous], [Role.ADJACENT], head), head)
    logits = head.predict(embedding)["logits"]

    label = case.inputs["label"]
    return {
        "refined_flow": refined[0],
        "logits": logits,
        "probs": resized(logits, case).softmax(1),
        "loss": nll(logits, label, case) + AUXILIARY_WEIGHT * pair_auxiliary(case, head, with_regions),
        "acc": accuracy(logits, label, case),
    }


def etc(case: Case) -> dict[str, Tensor]:
    """`ETC` and `ETC_ocr`."""
    with_regions = "ocr" in case.reference
    head = ocr_head(case) if with_regions else psp_head(case)
    loaded(case, head, Identity(), vspw.ETC_OCR if with_regions else vspw.ETC_PSP)
    maps = [case.inputs["conv4"], case.inputs["conv5"]]
    logits = head(maps)
    current, previous = logits.chunk(2)
    label = case.inputs["label"]
    loss = nll(current, label, case) + AUXILIARY_WEIGHT * pair_auxiliary(case, head, with_regions)

    flow, image = case.inputs["flow"], case.inputs["image"]
    warped_image = warp(case.inputs["prev_image"], flow, form="vspw")
    mask = photometric_mask(image, warped_image, "vspw")
    motion = motion_loss(resized(current, case), warp(resized(previous, case), flow, form="vspw"), mask)
    return {
        "logits": logits,
        "probs": resized(current, case).softmax(1),
        "loss_without_st": loss,
        "st_loss_weight_1": motion,
        "loss": loss + case.args["st_weight"] * motion,
        "acc": accuracy(current, label, case),
        "warped_prev_image": warped_image,
    }


BUILDERS: dict[str, Builder] = {
    "PPMDeepsup": psp,
    "SpatialOCRNet": ocr,
    "Clip_PSP": tcb_psp,
    "ClipOCRNet": tcb_ocr,
    "NetWarp": netwarp,
    "NetWarp_ocr": netwarp,
    "ETC": etc,
    "ETC_ocr": etc,
}
"""Class of the VSPW code -> builder."""
