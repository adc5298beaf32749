"""Specialists: models trained for a few classes have a say in those classes, and in no others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.inference.ensemble import Members, finest
from everyframe.inference.predictor import Predictor
from everyframe.inference.scores import ScoreNorm, as_logits, check_norm, normalized, resized
from everyframe.labels import LabelSpace


class Fusion:
    """P_k <- (1 - alpha_k) P_k + alpha_k P^spec_k for the classes with an alpha_k, then divided by the sum over k.

    One of the VSPW 2023 winner's further attempts. A specialist's classes are found by name. One trained on n classes
    and "rest" has just those; one with all classes can be asked for some. Where several specialists know a class,
    P^spec_k is their mean. P stays as it is where all alphas are 0.

    Args:
        general: classes of the model for all classes, which are those of the result.
        specialists: classes of each specialist.
        alphas: class name -> weight of the specialists in it, 0..1; classes left out have 0.
        score_norm: "softmax" or "l1": which probabilities are mixed, see `ScoreNorm`.

    Raises:
        InputError: an alpha out of range, or of a class that the general model or every specialist lacks.
    """

    def __init__(
        self,
        general: LabelSpace,
        specialists: Sequence[LabelSpace],
        alphas: Mapping[str, float],
        score_norm: ScoreNorm = "softmax",
    ) -> None:
        check_norm(score_norm)
        if score_norm == "none":
            raise InputError("specialists: expected --score-norm softmax or l1, came none: scores of models differ")
        self.score_norm: ScoreNorm = score_norm
        self.alphas = {name: float(alpha) for name, alpha in alphas.items()}
        self.sources: list[tuple[int, float, list[tuple[int, int]]]] = []
        """Of each class with an alpha: train id, alpha, and the (specialist, its train id) that know the class."""
        for name, alpha in self.alphas.items():
            known = [(i, space.names.index(name)) for i, space in enumerate(specialists) if name in space.names]
            if name not in general.names or not known or not 0 <= alpha <= 1:
                raise InputError(
                    f"specialists: expected a weight in 0..1 of a class that the general model and a specialist have, "
                    f"came {alpha} for {name!r}; the specialists have "
                    f"{', '.join(dict.fromkeys(name for space in specialists for name in space.names))}"
                )
            if alpha:
                self.sources.append((general.names.index(name), alpha, known))

    def __call__(self, members: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Fuse logits: the general model's [B, K, h, w], then each specialist's [B, K_i, h_i, w_i].

        Args:
            members: as above.
            size: resolution of the result; None: the finest of those that take part.

        Returns:
            logits [B, K, h, w].
        """
        if not self.sources:
            return members[0]
        taking_part = sorted({i for _, _, known in self.sources for i, _ in known})
        size = size or finest([members[0], *(members[1 + i] for i in taking_part)])
        fused = normalized(resized(members[0], size), self.score_norm)
        special = {i: normalized(resized(members[1 + i], size), self.score_norm) for i in taking_part}
        for k, alpha, known in self.sources:
            theirs = torch.stack([special[i][:, column] for i, column in known]).mean(0)
            fused[:, k].lerp_(theirs, alpha)
        fused /= fused.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return as_logits(fused, self.score_norm)


class Specialists(Members):
    """A model for all classes, and specialists that have a say in some of them, as one predictor.

    Args:
        members: the general model first, then the specialists; see `Fusion` for their classes.
        alphas: see `Fusion`; `everyframe ensemble specialists` chooses them on a validation split.
        score_norm: see `Fusion`.
        full_resolution: bring all members to the frame's resolution before they are mixed.

    Raises:
        InputError: see `Fusion`.
    """

    def __init__(
        self,
        members: Sequence[Predictor],
        alphas: Mapping[str, float],
        score_norm: ScoreNorm = "softmax",
        full_resolution: bool = False,
    ) -> None:
        super().__init__(members, score_norm, full_resolution)
        spaces = [member.label_space for member in members]
        self.fusion = Fusion(spaces[0], spaces[1:], alphas, score_norm)

    def _check_classes(self, members: Sequence[Predictor]) -> None:
        """`Fusion` matches them by name."""

    def _join(self, logits: list[Tensor], size: tuple[int, int] | None) -> Tensor:
        return self.fusion(logits, size)

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"alphas={self.fusion.alphas}, score_norm={self.score_norm!r}, full_resolution={self.full_resolution}"


def shared_classes(
    general: LabelSpace, specialists: Sequence[LabelSpace], chosen: Collection[str] | None = None
) -> list[str]:
    """Return the classes in which the specialists may have a say, in the general model's order.

    Args:
        general: classes of the general model.
        specialists: classes of each specialist; names that the general model lacks, such as "rest", count for nothing.
        chosen: only these.

    Raises:
        InputError: none, one that no specialist has, or every class of the general model without a choice.
    """
    known = {name for space in specialists for name in space.names}
    strange = [name for name in chosen or () if name not in known or name not in general.names]
    if strange:
        raise InputError(
            f"specialists: expected classes that the general model and a specialist have, came {', '.join(strange)}; "
            f"both have {', '.join(name for name in general.names if name in known) or 'none'}"
        )
    shared = [name for name in general.names if name in known and (chosen is None or name in chosen)]
    if not shared:
        raise InputError(
            f"specialists: expected a class in common with the general model ({', '.join(general.names[:5])}, ...), "
            f"came specialists of {', '.join(sorted(known)[:5])}; classes are matched by name"
        )
    if chosen is None and len(shared) == len(general):
        raise InputError(
            f"specialists: came specialists of all {len(shared)} classes; say with --classes in which ones they are "
            f"better, ask them about weak classes with --below 0.3, or join them by `everyframe ensemble sweep`"
        )
    return shared
