"""What each score means, in a sentence that is printed beside the number. `docs/metrics.md` has the formulas."""

from __future__ import annotations

from typing import Literal, get_args

ClassRule = Literal["in-ground-truth", "union>0"]
"""Over which classes a mean of class IoUs is taken."""

ConsistencyVariant = Literal["correct", "paper", "vspw-script", "dvis-pooled"]
"""The definitions of video consistency VC_n."""

CorrespondenceVariant = Literal["strict", "vspw-script"]
"""The definitions of temporal consistency TC."""

CLASS_RULES: tuple[ClassRule, ...] = get_args(ClassRule)
CONSISTENCY_VARIANTS: tuple[ConsistencyVariant, ...] = get_args(ConsistencyVariant)
CORRESPONDENCE_VARIANTS: tuple[CorrespondenceVariant, ...] = get_args(CorrespondenceVariant)

DEFINITIONS: dict[tuple[str, str], str] = {
    ("mIoU", "in-ground-truth"): "one confusion matrix over all labelled pixels of all videos; mean IoU over the "
    "classes that occur in the ground truth (the VSPW authors' rule).",
    ("mIoU", "union>0"): "the same matrix; mean IoU over the classes that occur in the ground truth or are predicted.",
    ("mIoU", "mean of videos, in-ground-truth"): "mIoU [in-ground-truth] of each video alone, averaged over videos.",
    ("weighted IoU", "in-ground-truth"): "the same matrix; class IoUs weighted by their ground-truth pixels.",
    ("weighted IoU", "mean of videos, in-ground-truth"): "weighted IoU of each video alone, averaged over videos.",
    ("pixel accuracy", "labelled pixels"): "share of labelled pixels that are predicted right.",
    ("class accuracy", "in-ground-truth"): "mean over the classes in the ground truth of the share of their pixels "
    "that are predicted right.",
    ("VC", "correct"): "windows of n consecutive labelled frames; of the pixels with one and the same class in all of "
    "them, the share predicted as that class in all of them; void left out; mean over the windows of a video, "
    "then over videos.",
    ("VC", "paper"): "as the VSPW paper averages: all N-n+1 windows of a video, then the mean over videos; a pixel counts "
    "when its label and its prediction are constant, void is left out; the prediction need not be right.",
    ("VC", "vspw-script"): "as the authors' VC_perclip.py computes: the last window of each video left out, videos of "
    "N <= n frames skipped, void counts as a label, one mean over the windows of all videos; the prediction "
    "need not be right.",
    ("VC", "dvis-pooled"): "as the copy of the script in DVIS++, VidEoMT and PMT prints it: the list of window scores is "
    "not emptied between the lengths n, so each VC_n is pooled with the shorter ones.",
    ("TC", "strict"): "mIoU [in-ground-truth] between a prediction and the next one moved back along the optical flow, "
    "all pairs of all videos pooled; pixels that leave the picture or are occluded are left out.",
    ("TC", "vspw-script"): "as the authors' TC_cal.py computes: first 100 videos only, half-pixel shift of the sampling "
    "grid, pixels from outside the picture count as class 0, no occlusion test.",
    ("flicker", "same pixel"): "share of pixels whose predicted class differs from the frame before, mean over frames, "
    "then over videos; needs no labels; motion counts as change.",
    ("flicker", "along flow"): "share of pixels whose predicted class differs from the corresponding pixel of the frame "
    "before, found by optical flow; pixels without correspondence are left out; needs no labels.",
    ("flip-back", "same pixel"): "share of pixels with predictions A, B, A in three consecutive frames, mean over frames, "
    "then over videos; needs no labels; motion rarely causes it.",
    ("flip-back", "along flow"): "the same along the optical flow.",
}  # fmt: skip
"""(name, variant) -> one sentence; VC stands for every VC_n."""
