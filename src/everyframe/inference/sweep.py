"""The weight of two models: measured for each tau on a validation split, stored, used on other videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.inference.scores import SCORE_NORMS
from everyframe.metrics.results import Results

TAUS = tuple(round(0.1 * i, 1) for i in range(11))
"""The weights of the first model that are tried."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep of tau found: P = tau P1 + (1 - tau) P2.

    Attributes:
        members: P1 and P2 as they were named, with how each looked at frames.
        data: data set and split that it was measured on.
        score_norm: what was averaged.
        videos: names of the videos that it was measured on.
        taus: the weights tried.
        miou: mIoU of each, 0..1.
        scores: further scores of each, by name.
        best: tau of the highest mIoU; of equals the one nearest 0.5, then the lower one.
    """

    members: tuple[str, str]
    data: str
    score_norm: str
    videos: tuple[str, ...]
    taus: tuple[float, ...]
    miou: tuple[float, ...]
    scores: dict[str, tuple[float, ...]]
    best: float

    @classmethod
    def of(cls, members: tuple[str, str], data: str, score_norm: str, results: Mapping[str, Results]) -> Sweep:
        """Read the scores of the joins that `sweep_joins` named, each over the same videos.

        Raises:
            InputError: no frame of the data is labelled.
        """
        taus = tuple(float(name) for name in results)
        miou = tuple(result.score("mIoU").value for result in results.values())
        if any(np.isnan(miou)):
            raise InputError(f"ensemble sweep: expected labelled frames in {data}, came none; sweep a validation split")
        best = max(zip(miou, taus, strict=True), key=lambda pair: (pair[0], -abs(pair[1] - 0.5), -pair[1]))[1]
        names = [score.name for score in next(iter(results.values())).overall if score.name.startswith("VC")]
        scores = {name: tuple(r.score(name).value for r in results.values()) for name in dict.fromkeys(names)}
        videos = tuple(video.name for video in next(iter(results.values())).videos)
        return cls(members, data, score_norm, videos, taus, miou, scores, best)

    def table(self) -> str:
        """Return one line per tau, the best one marked."""
        lines = ["  tau" + "".join(f"{name:>9}" for name in ("mIoU", *self.scores))]
        for i, tau in enumerate(self.taus):
            values = [self.miou[i], *(values[i] for values in self.scores.values())]
            numbers = "".join("        -" if np.isnan(value) else f"{value:9.2%}" for value in values)
            lines.append(f"{tau:5.2f}{numbers}{'  best' if tau == self.best else ''}")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write as JSON; numbers that are none become null."""
        data = asdict(self)
        data["scores"] = {name: [None if np.isnan(v) else v for v in row] for name, row in self.scores.items()}
        write_whole(path, json.dumps(data, indent=1) + "\n")


class BestTau(NamedTuple):
    """What a sweep on a validation split chose.

    Attributes:
        tau: weight of the first model.
        data: data set and split.
        videos: names of the videos; none where the file is of an older release.
        members: P1 and P2, see `Sweep`; short names where the file is of an older release.
        score_norm: what was averaged; "" where the file does not say.
    """

    tau: float
    data: str
    videos: tuple[str, ...]
    members: tuple[str, ...] = ()
    score_norm: str = ""


def best_tau(path: str | Path) -> BestTau:
    """Read the best tau that a sweep wrote, and on what it was chosen.

    Raises:
        InputError: no such file, or no sweep.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        norm = str(found.get("score_norm", ""))
        if norm not in ("", *SCORE_NORMS):
            raise ValueError(f"score_norm {norm}")
        videos, members = (tuple(map(str, found.get(key, ()))) for key in ("videos", "members"))
        return BestTau(float(found["best"]), str(found.get("data", "")), videos, members, norm)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected the sweep.json that `everyframe ensemble sweep` writes, came {error!r}"
        ) from None
