"""Builder for the case of ETC's distillation losses."""

from __future__ import annotations

from cases import Builder, Case
from torch import Tensor
from torch.nn import functional as F

from everyframe.losses.temporal import knowledge_distillation, pair_distillation, self_similarity

SIDE_WEIGHT = 0.4
"""Factor of the neighbouring frames where all three count."""


def distillation(case: Case) -> dict[str, Tensor]:
    """`CriterionKD`, `CriterionKDLong`, `CriterionSDcos_sig`, `CriterionSDcos_self`."""

    def pair(frame: str, what: str) -> tuple[Tensor, Tensor]:
        return case.inputs[f"s_{frame}.{what}"], case.inputs[f"t_{frame}.{what}"]

    def kd(frame: str, temperature: float = 1.0) -> Tensor:
        return knowledge_distillation(*pair(frame, "logits"), temperature)

    current, forward, backward = "cur", "frame", "frame_b"
    features = [pair(frame, "fea") for frame in (current, forward)]
    student, teacher = zip(*features, strict=True)
    own = {
        frame: F.mse_loss(*(self_similarity(x, pool=2) for x in pair(frame, "fea")))
        for frame in (current, forward, backward)
    }
    return {
        "kd": kd(current) + kd(forward),
        "kd_T4": kd(current, 4) + kd(forward, 4),
        "kd_long": kd(current) + SIDE_WEIGHT * (kd(forward) + kd(backward)),
        "pair_cos": pair_distillation(student, teacher, form="etc"),
        "self_cos": own[current] + SIDE_WEIGHT * (own[forward] + own[backward]),
    }


BUILDERS: dict[str, Builder] = {
    "CriterionKD, CriterionKDLong, CriterionSDcos_sig, CriterionSDcos_self": distillation,
}
"""Classes of ETC's code -> builder."""
