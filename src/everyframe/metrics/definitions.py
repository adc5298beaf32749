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
    ("mIoU", "in-ground-truth"): (
        "one confusion matrix over all labelled pixels of all videos; mean IoU over the classes that occur in the "
        "ground truth (the VSPW authors' rule)."
    ),
    ("mIoU", "union>0"): (
        "the same matrix; mean IoU over the classes that occur in the ground truth or are predicted."
    ),
    ("mIoU", "mean of videos"): ("mIoU [in-ground-truth] of each video alone, averaged over videos."),
    ("weighted IoU", "in-ground-truth"): ("the same matrix; class IoUs weighted by their ground-truth pixels."),
    ("weighted IoU", "mean of videos"): ("weighted IoU of each video alone, averaged over videos."),
    ("pixel accuracy", "labelled pixels"): ("share of labelled pixels that are predicted right."),
    ("class accuracy", "in-ground-truth"): (
        "share of the pixels of a class that are predicted right, averaged over the classes in the ground truth."
    ),
    ("VC", "correct"): (
        "of the pixels with one and the same class in n consecutive labelled frames, the share predicted as that "
        "class in all n; void left out; mean over all windows of a video, then over videos."
    ),
    ("VC", "paper"): (
        "of the pixels with one label in n consecutive frames, the share whose prediction is constant, right or "
        "wrong; all N-n+1 windows; mean over the windows of a video, then over videos; void counts as a label."
    ),
    ("VC", "vspw-script"): (
        "as the authors' VC_perclip.py computes: as `paper`, but the last window of each video is left out, videos "
        "of N <= n frames are skipped, and one mean is taken over the windows of all videos."
    ),
    ("VC", "dvis-pooled"): (
        "as the copy of the script in DVIS++, VidEoMT and PMT prints it: as `vspw-script`, but the list of window "
        "scores is not emptied between the lengths, so VC_n is pooled with all shorter ones."
    ),
    ("TC", "strict"): (
        "mIoU [in-ground-truth] between a prediction and the next one moved back along the optical flow, all pairs "
        "of all videos pooled; pixels that leave the picture or become occluded are left out."
    ),
    ("TC", "vspw-script"): (
        "as the authors' TC_cal.py computes: first 100 videos only, sampling grid shifted by up to half a pixel, "
        "pixels from outside the picture count as class 0, no occlusion test."
    ),
    ("flicker", "same pixel"): (
        "share of pixels whose predicted class differs from the frame before, mean over the frames of a video, "
        "then over videos; needs no labels; motion counts as change."
    ),
    ("flicker", "along flow"): (
        "share of pixels whose predicted class differs from that of the same point in the next frame, found by "
        "optical flow; points that leave the picture or become occluded are left out; needs no labels."
    ),
    ("flip-back", "same pixel"): (
        "share of pixels predicted A, B, A in three consecutive frames, mean over the frames of a video, then over "
        "videos; needs no labels; motion rarely causes it."
    ),
    ("flip-back", "along flow"): (
        "share of points, followed by optical flow, predicted A, B, A in three consecutive frames."
    ),
}
"""(name, variant) -> one sentence; VC stands for every VC_n."""
