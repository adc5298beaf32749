"""Losses between frames, and between a student and a teacher: ETC (Liu et al., ECCV 2020).

"Efficient Semantic Video Segmentation with Per-frame Inference" trains a per-frame network so that its predictions
follow the motion of the video, and so that its features relate across frames as a larger teacher's do. Warping itself
is not done here: callers hand in what they warped (`everyframe.models.ops.warp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MaskForm = Literal["absolute", "vspw"]
SimilarityForm = Literal["cosine", "etc"]


def photometric_mask(image: Tensor, warped: Tensor, form: MaskForm = "absolute") -> Tensor:
    """Return how far the motion can be believed: exp(-difference) of a frame and its warped neighbour.

    Args:
        image: normalised frame [N, 3, H, W].
        warped: the neighbour, normalised and warped onto the frame's grid.
        form: difference summed over the channels: "absolute", sum |d|; "vspw", |sum d|, the VSPW code's, in which
            differences of opposite sign cancel.

    Returns:
        [N, 1, H, W] in 0..1, near 0 where the pixel is occluded or the flow wrong.
    """
    difference = image - warped
    if form == "vspw":
        return difference.sum(1, keepdim=True).abs().neg().exp()
    return difference.abs().sum(1, keepdim=True).neg().exp()


def motion_loss(current: Tensor, warped: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference of a frame's logits and its neighbour's, where believed (ETC, eq. 2).

    Args:
        current: logits [N, K, H, W].
        warped: the neighbour's logits on the frame's grid.
        mask: [N, 1, H, W], see `photometric_mask`.
    """
    return F.mse_loss(mask * current, mask * warped)


def knowledge_distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of the class distributions, averaged over all elements (pixels and classes).

    Args:
        student: logits [N, K, h, w]; resized to the teacher's size.
        teacher: logits [N, K, H, W], no gradient flows into them.
        temperature: by which logits are divided. The loss is not multiplied by its square, as in ETC's code.
    """
    student = student.float()
    if student.shape[-2:] != teacher.shape[-2:]:
        student = F.interpolate(student, teacher.shape[-2:], mode="bilinear", align_corners=False)
    log_p = (student / temperature).log_softmax(1)
    log_q = (teacher.detach().float() / temperature).log_softmax(1)
    return (log_q.exp() * (log_q - log_p)).mean()


def similarity(first: Tensor, second: Tensor, form: SimilarityForm = "cosine") -> Tensor:
    """Return how each cell of one map relates to each cell of another, [N, hw, h'w'].

    Args:
        first: features [N, C, h, w].
        second: features [N, C, h', w']; with "etc" of the same size.
        form: "cosine"; or "etc", ETC's code, whose product of cells i and j is divided by the lengths of first(j) and
            second(i) - the norms are swapped.
    """
    # In float32 whatever autocast says: what is compared later are small differences of cosines.
    with torch.autocast(first.device.type, enabled=False):
        a, b = first.flatten(2).float(), second.flatten(2).float()
        if form == "cosine":
            return F.normalize(a, dim=1).transpose(1, 2) @ F.normalize(b, dim=1)
        lengths = b.norm(dim=1)[:, :, None] * a.norm(dim=1)[:, None, :]
        return (a.transpose(1, 2) @ b) / lengths.clamp(min=1e-12)


def pair_distillation(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], form: SimilarityForm = "cosine"
) -> Tensor:
    """Return the pair-wise-frames dependency loss (ETC, eq. 4): cells of two frames relate as the teacher's do.

    Args:
        student: features of two frames, each [N, C, h, w].
        teacher: likewise, with any number of channels, [N, C', h, w].
        form: see `similarity`.
    """
    with torch.no_grad():
        wanted = similarity(*teacher, form)
    return F.mse_loss(similarity(*student, form), wanted)


def self_similarity(x: Tensor, pool: int) -> Tensor:
    """Return how the cells of one map [N, C, h, w] relate, averaged over `pool` x `pool` before: [N, cells, cells]."""
    x = F.avg_pool2d(x.float(), min(pool, *x.shape[-2:]))
    return similarity(x, x)


class MultiFrameDistillation(nn.Module):
    """Multi-frame dependency loss (ETC, eq. 5): how a frame's cells relate develops over time as the teacher's do.

    The self-similarity map of each frame is an image of one channel; one small ConvLSTM, shared by student and
    teacher, reads them in time order, and its last states are compared.

    Args:
        hidden: channels of the ConvLSTM.
        pool: cells a side that are averaged before the comparison.
    """

    def __init__(self, hidden: int = 4, pool: int = 16) -> None:
        super().__init__()
        self.hidden = hidden
        self.pool = pool
        self.gates = nn.Conv2d(1 + hidden, 4 * hidden, 3, padding=1)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Compare features of T frames in time order, each [N, C, h, w] (the teacher's C may differ)."""
        wanted = [x.detach() for x in self.encode([frame.detach() for frame in teacher])]
        return torch.stack([F.mse_loss(a, b) for a, b in zip(self.encode(student), wanted, strict=True)]).sum()

    def encode(self, frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the ConvLSTM's last hidden and cell state, [N, hidden, cells, cells] each, in float32."""
        maps = [self_similarity(frame, self.pool)[:, None] for frame in frames]
        h = c = maps[0].new_zeros(len(maps[0]), self.hidden, *maps[0].shape[-2:])
        with torch.autocast(h.device.type, enabled=False):
            for x in maps:
                keep, write, candidate, show = self.gates(torch.cat([x, h], dim=1)).chunk(4, dim=1)
                c = keep.sigmoid() * c + write.sigmoid() * candidate.tanh()
                h = show.sigmoid() * c.tanh()
        return h, c
