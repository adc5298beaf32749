"""Logit adjustment: rare classes are lifted, frequent ones lowered, by how often the training labels show them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.inference.predictor import Predictor, State, Wrapper
from everyframe.inference.scores import ScoreNorm, as_logits, check_norm, normalized


class LogitAdjustment(Wrapper):
    """Subtract `strength` * log prior from a predictor's logits: log P_k - lambda log pi_k.

    Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), after training. With strength 1 the label map
    is that of a model whose training set had equally many pixels of each class; between 0 and 1 a part of the way.
    Raises the recall of rare classes at the cost of their precision.

    Args:
        predictor: what to run.
        pixels: class name -> pixels in the training labels; only their ratios matter. A class that never occurs cannot
            be told from this: it is lifted no more than the most frequent one.
        strength: lambda.
        score_norm: "l1" for heads whose scores are sums of mask probabilities: their logarithm is adjusted.

    Raises:
        InputError: counts of other classes, negative, or none above 0.
    """

    log_prior: Tensor

    def __init__(
        self,
        predictor: Predictor,
        pixels: Mapping[str, float],
        strength: float = 1.0,
        score_norm: ScoreNorm = "softmax",
    ) -> None:
        super().__init__(predictor)
        check_norm(score_norm)
        names = self.label_space.names
        missing = [name for name in names if name not in pixels]
        if missing:
            raise InputError(
                f"prior: expected a count of pixels for each of the model's {len(names)} classes, none came for "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; write 0 for classes that do not occur"
            )
        counts = torch.tensor([float(pixels[name]) for name in names], dtype=torch.float64)
        if not bool((counts >= 0).all()) or not bool(counts.isfinite().all()) or not bool(counts.any()):
            raise InputError(f"prior: expected counts of pixels, 0 or more and not all 0, came {counts.tolist()}")
        counts = torch.where(counts > 0, counts, counts.max())
        self.register_buffer("log_prior", (counts / counts.sum()).log().float()[:, None, None], persistent=False)
        self.predicts = "logits"
        self.strength = strength
        self.score_norm: ScoreNorm = score_norm

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        logits, state = self.predictor.step(frame, state)
        if self.score_norm == "l1":
            logits = as_logits(normalized(logits, "l1"), "l1")
        return logits.float() - self.strength * self.log_prior.to(logits.device), state

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"strength={self.strength}, score_norm={self.score_norm!r}"


def read_class_pixels(path: str | Path) -> dict[str, float]:
    """Read how many pixels each class has: class name -> pixels.

    Args:
        path: JSON, {"road": 81200, "car": 950, ...}; or what `everyframe data check --json` writes: its split
            "train" where it has one, else all its splits together.

    Raises:
        InputError: no such file, or something else in it.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        splits = data.get("splits")
        chosen = [] if splits is None else [splits["train"]] if "train" in splits else splits.values()
        parts = [data] if splits is None else [split["pixels"] for split in chosen]
        counts: dict[str, float] = {}
        for part in parts:
            for name, count in part.items():
                counts[name] = counts.get(name, 0.0) + _number(count)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path}: expected pixels by class as JSON, such as {{"road": 81200, "car": 950}}, came {error!r}'
        ) from None
    return counts


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number of pixels")
    return float(value)
