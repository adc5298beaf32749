"""How much say specialists get in each class: chosen on a validation split, stored, used on other videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.metrics.results import Results

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
FORMAT = "everyframe specialists 1"


@dataclass(frozen=True)
class SpecialistChoice:
    """Weights alpha_k of specialists, and the measurements that led to them.

    Attributes:
        members: the general model, then the specialists, as they were named.
        data: data set and split that they were chosen on.
        score_norm: what was mixed.
        delta: gain in a class's IoU below which its alpha is 0.
        tried: the alphas that were tried, 0 first.
        iou: class -> its IoU at each of them, all classes at the same alpha; NaN where the class does not occur.
        alphas: class -> what was chosen.
        miou: mIoU of the general model alone, and of the fusion with `alphas`; None before that was measured.
        videos: names of the videos that they were chosen on; none where the file is of an older release.
    """

    members: tuple[str, ...]
    data: str
    score_norm: str
    delta: float
    tried: tuple[float, ...]
    iou: dict[str, tuple[float, ...]]
    alphas: dict[str, float]
    miou: tuple[float, float] | None = None
    videos: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        members: Sequence[str],
        data: str,
        score_norm: str,
        classes: Mapping[str, int],
        results: Mapping[float, Results],
        delta: float,
        below: float | None = None,
    ) -> Self:
        """Choose: for each class the alpha of the highest IoU, of equals the lowest; 0 where it gains less than delta.

        Args:
            members: see above.
            data: see above.
            score_norm: see above.
            classes: class -> its train id in the data that the results are of.
            results: alpha -> results with that alpha for all classes; 0 among them.
            delta: see above.
            below: classes in which the general model's IoU is at least this keep 0; None: none do for that.

        Raises:
            InputError: no frame of the data is labelled.
        """
        tried = tuple(sorted(results))
        if not any(entry.pixels for entry in results[tried[0]].classes):
            raise InputError(
                f"specialists: expected labelled frames in {data}, came none; choose on a validation split"
            )
        iou, alphas = {}, {}
        for name, k in classes.items():
            entries = [results[alpha].classes[k] for alpha in tried]
            values = [entry.iou if entry.pixels else np.nan for entry in entries]
            best = int(np.argmax(np.nan_to_num(values)))
            gains = values[best] - values[0] >= delta and (below is None or values[0] < below)  # False for NaN
            iou[name] = tuple(values)
            alphas[name] = tried[best] if gains else 0.0
        videos = tuple(video.name for video in results[tried[0]].videos)
        return cls(tuple(members), data, score_norm, delta, tried, iou, alphas, videos=videos)

    def confirmed(self, general: float, fused: float) -> Self:
        """Return the choice with both mIoU; all alphas 0 where the others lost more than these classes gained."""
        alphas = self.alphas if fused > general else dict.fromkeys(self.alphas, 0.0)
        return type(self)(**{**vars(self), "alphas": alphas, "miou": (general, fused)})

    def table(self) -> str:
        """Return one line per class: its IoU at each alpha, and the alpha chosen."""
        width = max(map(len, ("alpha", *self.iou)))
        lines = [f"{'alpha':{width}}" + "".join(f"{alpha:>8g}" for alpha in self.tried) + "  chosen"]
        for name, values in self.iou.items():
            numbers = "".join("       -" if np.isnan(value) else f"{value:8.2%}" for value in values)
            lines.append(f"{name:{width}}{numbers}{self.alphas[name]:8g}")
        if self.miou is not None:
            lines.append(f"mIoU {self.miou[0]:.2%} alone, {self.miou[1]:.2%} with the alphas that the classes chose")
            if not any(self.alphas.values()) and any(max(v) - v[0] >= self.delta for v in self.iou.values()):
                lines.append("other classes lost as much as these gained: all alphas are 0")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write as JSON; numbers that are none become null."""
        data = asdict(self)
        data["iou"] = {name: [None if np.isnan(v) else v for v in row] for name, row in self.iou.items()}
        write_whole(path, json.dumps({"format": FORMAT, **data}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or something else in it.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError(f"another format than {FORMAT!r}")
            rows = {name: tuple(np.nan if v is None else v for v in row) for name, row in data.pop("iou").items()}
            members, tried, miou = tuple(data.pop("members")), tuple(data.pop("tried")), data.pop("miou")
            videos = tuple(map(str, data.pop("videos", ())))
            alphas = {str(name): float(alpha) for name, alpha in data.pop("alphas").items()}
            return cls(
                **data,
                members=members,
                tried=tried,
                iou=rows,
                alphas=alphas,
                miou=None if miou is None else tuple(miou),
                videos=videos,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: expected the specialists.json that `everyframe ensemble specialists` writes, came {error!r}"
            ) from None
