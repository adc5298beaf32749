"""Ensembles: several predictors on the same frames, joined before the label map. Each member keeps its own state.

The joins of the VSPW 2023 winner (eqs. 4-6): P = tau P1 + (1 - tau) P2, the mean of N, the majority vote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.inference.predictor import Predictor, Scored, State, child_states, scores_of, timing
from everyframe.inference.scores import ScoreNorm, as_logits, check_norm, normalized, resized


def weighted_logits(
    members: Sequence[Tensor], weights: Sequence[float], norm: ScoreNorm, size: tuple[int, int] | None = None
) -> Tensor:
    """Return the weighted mean of logits [B, K, h, w] as logits.

    Args:
        members: logits whose resolutions may differ; those of weight 0 are not looked at.
        weights: one per member, none below 0, not all 0; divided by their sum.
        norm: what is averaged.
        size: resolution at which it is averaged; None: the members' own where it is one, else the finest.
    """
    size = size or finest(members)
    used = [(member, weight / sum(weights)) for member, weight in zip(members, weights, strict=True) if weight]
    if len(used) == 1:  # untouched, so that its label map is the member's own to the last pixel
        return used[0][0]
    total = normalized(resized(used[0][0], size), norm).mul_(used[0][1])
    for member, weight in used[1:]:
        total += normalized(resized(member, size), norm).mul_(weight)
    return as_logits(total, norm)


def voted_logits(members: Sequence[Tensor], size: tuple[int, int] | None = None, norm: ScoreNorm = "softmax") -> Tensor:
    """Return the majority vote of logits [B, K, h, w] as scores whose argmax is the winner.

    Each member votes for its best class in each cell. Among classes with equally many votes the one with the highest
    sum of normalised scores over all members wins; among those with equal sums, the one that the earliest member voted
    for. (There is always such a member. A member whose own best classes tie votes for the lowest id.)

    Args:
        members: logits whose resolutions may differ; they vote at one.
        size: resolution of the vote; None: the members' own where it is one, else the finest.
        norm: of the scores that break ties.

    Returns:
        [B, K, h, w]: shares of the votes, of which the winner has half a one more; their sum is 1.
    """
    size = size or finest(members)
    scores = [resized(member, size).float() for member in members]
    ballots = [score.argmax(1, keepdim=True) for score in scores]
    votes = torch.zeros_like(scores[0])
    for ballot in ballots:
        votes.scatter_add_(1, ballot, torch.ones_like(votes[:, :1]))
    tied = votes == votes.amax(1, keepdim=True)
    disputed = tied.sum(1, keepdim=True) > 1
    winner = votes.argmax(1, keepdim=True)
    if disputed.any():
        total = normalized(scores[0], norm)
        for score in scores[1:]:
            total += normalized(score, norm)
        total.masked_fill_(~tied, -torch.inf)
        best = total == total.amax(1, keepdim=True)
        for ballot in reversed(ballots):  # the earliest member comes last and has the last word
            winner = torch.where(best.gather(1, ballot) & disputed, ballot, winner)
    return votes.scatter_add_(1, winner, torch.full_like(votes[:, :1], 0.5)).div_(len(members) + 0.5)


class Members(nn.Module, ABC):
    """Several predictors, one step each, joined: what `Ensemble`, `Vote` and `Specialists` have in common.

    Like a model's own, `step` takes frames as they are; what runs it brings them to the short side of the members'
    training. Members that were trained at several come from `everyframe.inference.views.with_views`, one by one.
    """

    def __init__(self, members: Sequence[Predictor], score_norm: ScoreNorm, full_resolution: bool) -> None:
        super().__init__()
        check_norm(score_norm)
        if not members:
            raise InputError("ensemble: expected one or more models, came none")
        self._check_classes(members)
        check_kinds([scores_of(member) for member in members], score_norm)
        if len({timing(member) for member in members}) > 1:
            raise InputError(
                f"ensemble: expected members that look equally far ahead, came {[timing(m) for m in members]}; run all "
                f"of them as streams"
            )
        self.lookahead, self.preview = timing(members[0])
        self.members = list(members)
        for i, member in enumerate(self.members):  # moved to the device and put into eval mode with the ensemble
            if isinstance(member, nn.Module):
                self.add_module(str(i), member)
        self.label_space = members[0].label_space
        self.predicts: Scored = "masks" if any(scores_of(member) == "masks" for member in members) else "logits"
        self.score_norm: ScoreNorm = score_norm
        self.full_resolution = full_resolution

    def _check_classes(self, members: Sequence[Predictor]) -> None:
        for member in members[1:]:
            check_same_classes(members[0].label_space.names, member.label_space.names)

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        states = child_states(state, len(self.members), type(self).__name__)
        stepped = [member.step(frame, old) for member, old in zip(self.members, states, strict=True)]
        size = (frame.shape[-2], frame.shape[-1]) if self.full_resolution else None
        return self._join([logits for logits, _ in stepped], size), tuple(new for _, new in stepped)

    @abstractmethod
    def _join(self, logits: list[Tensor], size: tuple[int, int] | None) -> Tensor:
        """Join the members' logits, each [B, K, h, w], at `size` or where they meet."""


class Ensemble(Members):
    """Weighted mean of several predictors: with two members and weights (tau, 1 - tau) the paper's soft sum.

    The mean is taken at the members' own resolution where they share one, else at the finest; the label map is made
    from the sum alone. `Scales` says what `full_resolution` costs and changes.

    Args:
        members: predictors of the same classes; wrappers of other windows, sizes and strides mix.
        weights: one per member; None: all the same.
        score_norm: what is averaged, see `ScoreNorm`.
        full_resolution: bring all members to the frame's resolution before they are averaged.

    Raises:
        InputError: no member, other classes, or weights that do not fit.
    """

    def __init__(
        self,
        members: Sequence[Predictor],
        weights: Sequence[float] | None = None,
        score_norm: ScoreNorm = "softmax",
        full_resolution: bool = False,
    ) -> None:
        super().__init__(members, score_norm, full_resolution)
        self.weights = tuple(float(weight) for weight in weights) if weights is not None else (1.0,) * len(members)
        if len(self.weights) != len(members) or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise InputError(
                f"ensemble: expected {len(members)} weights of 0 or more, not all 0, came {list(self.weights)}"
            )

    def _join(self, logits: list[Tensor], size: tuple[int, int] | None) -> Tensor:
        return weighted_logits(logits, self.weights, self.score_norm, size)

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"weights={self.weights}, score_norm={self.score_norm!r}, full_resolution={self.full_resolution}"


class Vote(Members):
    """Majority vote of several predictors; `voted_logits` states how ties are broken.

    Args:
        members: predictors of the same classes, the most trusted one first.
        score_norm: of the scores that break ties.
        full_resolution: vote pixel by pixel at the frame's resolution, as the paper does; else cell by cell at the
            members' (finest) resolution, at a fraction of the memory, with borders interpolated between cells.

    Raises:
        InputError: no member, or other classes.
    """

    def __init__(
        self, members: Sequence[Predictor], score_norm: ScoreNorm = "softmax", full_resolution: bool = False
    ) -> None:
        super().__init__(members, score_norm, full_resolution)
        if len(members) > 1:
            self.predicts = "masks"  # shares: their confidence is that of sums of masks, and no softmax fits them

    def _join(self, logits: list[Tensor], size: tuple[int, int] | None) -> Tensor:
        return logits[0] if len(logits) == 1 else voted_logits(logits, size, self.score_norm)

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"score_norm={self.score_norm!r}, full_resolution={self.full_resolution}"


def check_same_classes(names: Sequence[str], others: Sequence[str]) -> None:
    """Refuse members that do not predict the same classes in the same order.

    Raises:
        InputError: names the first difference.
    """
    if list(names) == list(others):
        return
    where = next((i for i, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), None)
    came = f"{len(names)} and {len(others)}" if where is None else f"{names[where]!r} and {others[where]!r} at {where}"
    raise InputError(f"ensemble: expected models of the same classes in the same order, came {came}")


def check_kinds(kinds: Sequence[Scored | None], norm: ScoreNorm) -> None:
    """Refuse to average the scores of two kinds of heads by a norm that fits one of them alone.

    The softmax of sums of masks, which lie in 0..1, is nearly flat: beside probabilities they would have no say.

    Args:
        kinds: of each member; None: nobody knows, which fits any.
        norm: by which they are averaged.

    Raises:
        InputError: says which norm takes both.
    """
    known = [kind for kind in kinds if kind is not None]
    if norm != "l1" and len(set(known)) > 1:
        raise InputError(
            f"ensemble: expected members whose scores are of one kind under score_norm {norm}, came "
            f"{', '.join(known)}; l1 (--score-norm l1) takes sums of masks by their shares and logits by their softmax"
        )


def finest(members: Sequence[Tensor]) -> tuple[int, int]:
    """Return (h, w) of the logits with the most cells."""
    height, width = max(((m.shape[-2], m.shape[-1]) for m in members), key=lambda hw: hw[0] * hw[1])
    return height, width
