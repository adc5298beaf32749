"""How sure a model is of the class that wins: the one definition behind pseudo-labels and maps of confidence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Confidence = Literal["softmax", "bounded", "l1"]
"""How class scores become the probability that is held against a threshold.

"softmax": of logits. The others are for heads that predict masks, whose scores are no logits: S_k, the sum over
queries of class probability times mask probability, is 0 where no query sees anything and about 1 where one query is
sure; its softmax is nearly flat, so that no pixel would ever reach a threshold. "bounded": S_k / max(1, sum of S): what
is missing to 1 is the probability that nothing is there, and where queries overlap their shares count. "l1": S_k / sum
of S: the share of class k among the classes, however little of them there is.
"""


def winning_probability(best: Tensor, scores: Tensor, confidence: Confidence) -> Tensor:
    """Return the probability of the class with the largest score.

    Args:
        best: largest score of each place, [N, ...].
        scores: class scores [N, K, ...], at the resolution that is asked for: sums over masks are interpolated as sums,
            and divided afterwards.
        confidence: see `Confidence`.

    Returns:
        [N, ...] in 0..1.
    """
    if confidence == "softmax":
        return (best - scores.logsumexp(1)).exp()
    total = scores.sum(1)
    return best / total.clamp(min=1 if confidence == "bounded" else torch.finfo(total.dtype).tiny)
