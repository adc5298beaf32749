"""Score maps on disk: what a model thinks of every class in every cell of a frame, small enough to keep a test set.

A folder holds `score_maps.json` (format, norm, dtype, stride, kind), `labels.json` (the classes) and of each frame
<video>/<frame>.safetensors, whose metadata name the frame's height and width. What is in it, by dtype and norm, with
its size for 124 classes at 480x853:

- "uint8", norm "softmax" or "l1" (3.2 MB at stride 4): peak float16 [h, w], the highest share of each cell, and ratio
  uint8 [K, h, w] = round(255 * share / peak). A share is peak * max(ratio, 1/4) / 255: exact to 0.2 % of its cell's
  peak; a ratio of 0 stands for "little", not for "never", so that its logarithm stays moderate.
- "uint8", norm "none" (3.3 MB at stride 4): peak and low float16 [h, w], the highest and the lowest score of each cell,
  low at most `SPAN` below peak (of sums of masks the lowest as it is: 0 has to stay 0), and ratio uint8 [K, h, w] =
  round(255 * (score - low) / (peak - low)). A score is low + (peak - low) * ratio / 255: exact to 0.03, and to
  2^-11 of the peak, which float16 rounds; one further down reads as low, e^-16 of the best.
- "float16", norm "none" (4.1 MB at stride 5): scores float16 [K, h, w] as the model gave them.

Why not whole frames: 124 x 480 x 853 in float16 is 102 MB a frame, 2.9 TB for the VSPW test set. A frame of 480x853 is
to fit `LIMIT`, others by their area; `finest_stride` is the finest stride at which it does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError, writing
from everyframe.files import whole_file, write_whole
from everyframe.labels import LabelSpace

FORMAT = "everyframe score maps 1"
DESCRIPTION = "score_maps.json"
ScoreDtype = Literal["uint8", "float16"]
ScoreKind = Literal["logits", "masks"]
FLOOR = 0.25
"""What a ratio of 0 is read as, in steps of 1/255, where ratios are of shares."""
SPAN = 16.0
"""How far below its cell's best score a score "as it comes" is told from others: e^-16 is 1e-7."""
LIMIT = 6_000_000
"""Bytes that the scores of a frame of `FRAME` may take; other frames by their area."""
FRAME = (480, 853)


@dataclass(frozen=True)
class ScoreFormat:
    """What a folder of score maps holds.

    Attributes:
        norm: what was done to the model's scores: "softmax" or "l1" for shares, "none" for scores as they come.
        dtype: "uint8", or "float16" for scores as they come.
        stride: pixels per cell, at least; coarser scores stay as they are.
        kind: what the model's scores were: "logits", or "masks" for sums of mask probabilities; None: nobody wrote it,
            as in folders of older releases.
    """

    norm: str = "softmax"
    dtype: ScoreDtype = "uint8"
    stride: int = 4
    kind: ScoreKind | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("softmax", "l1", "none") or self.dtype not in get_args(ScoreDtype):
            raise InputError(
                f"score maps: expected norm softmax, l1 or none and dtype uint8 or float16, came norm {self.norm} and "
                f"dtype {self.dtype}"
            )
        if self.kind not in (None, *get_args(ScoreKind)):
            raise InputError(f"score maps: expected the kind logits or masks, came {self.kind}")
        if self.dtype == "float16" and self.norm != "none":
            raise InputError(f"score maps: expected norm none with float16, came norm {self.norm}; store uint8")
        if self.stride < 1:
            raise InputError(f"score maps: expected a stride of at least 1, came {self.stride}")

    @property
    def tensors(self) -> tuple[str, ...]:
        """What a file holds."""
        if self.dtype == "float16":
            return ("scores",)
        return ("peak", "low", "ratio") if self.norm == "none" else ("peak", "ratio")

    def megabytes(self, classes: int, size: tuple[int, int] = FRAME) -> float:
        """Return the MB that the scores of a frame of `size` (H, W) take at most, the file's header left out."""
        cells = -(-size[0] // self.stride) * -(-size[1] // self.stride)
        if self.dtype == "float16":
            return cells * 2 * classes / 1e6
        return cells * (classes + (4 if self.norm == "none" else 2)) / 1e6

    def too_large(self, classes: int) -> str:
        """Return a sentence with the figure and what to say where a 480p frame takes more than `LIMIT`; else ""."""
        came = self.megabytes(classes)
        if came * 1e6 <= LIMIT:
            return ""
        fits = finest_stride(classes, self.norm, self.dtype)
        better = "" if self.dtype == "uint8" else ", or --dtype-stored uint8, half as large at the same stride"
        return (
            f"score maps of {classes} classes in {self.dtype} at stride {self.stride} take {came:.1f} MB of a frame of "
            f"{FRAME[0]}x{FRAME[1]}, expected at most {LIMIT / 1e6:g}; say --stride-stored {fits}{better}"
        )


def finest_stride(classes: int, norm: str = "softmax", dtype: ScoreDtype = "uint8") -> int:
    """Return the finest stride from 4 on, that of most heads, at which a frame of `FRAME` fits `LIMIT`."""
    strides = range(4, max(FRAME) + 1)
    return next(s for s in strides if ScoreFormat(norm, dtype, s).megabytes(classes) * 1e6 <= LIMIT)


class ScoreFolder:
    """A folder of score maps, to read and to add to.

    Args:
        root: the folder.

    Raises:
        InputError: it is none, or of another format.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        path = self.root / DESCRIPTION
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            if described.pop("format") != FORMAT:
                raise ValueError("another format")
            self.format = ScoreFormat(**described)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: expected the description of a folder of score maps ({FORMAT}), came {error!r}; make one "
                f"with `everyframe ensemble store`"
            ) from None
        self.label_space = LabelSpace.load(self.root / "labels.json")

    @classmethod
    def create(cls, root: str | Path, space: LabelSpace, layout: ScoreFormat) -> ScoreFolder:
        """Make the folder and its two descriptions.

        Raises:
            InputError: it cannot be written.
        """
        root = Path(root)
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"format": FORMAT, **asdict(layout)}, indent=1)
            write_whole(root / DESCRIPTION, text + "\n")
            space.save(root / "labels.json")
        return cls(root)

    def path(self, video: str, frame: str) -> Path:
        """The file of a frame."""
        return self.root / video / f"{frame}.safetensors"

    def write(self, video: str, frame: str, scores: Tensor, size: tuple[int, int]) -> int:
        """Write one frame, whole or not at all.

        Args:
            video: its name.
            frame: its name.
            scores: [K, h, w], normalised as the folder's format says; finer ones are averaged down to its stride.
            size: (H, W) of the frame.

        Returns:
            Bytes of the file.

        Raises:
            InputError: it cannot be written.
        """
        coarse = tuple(
            min(side, -(-whole // self.format.stride)) for side, whole in zip(scores.shape[1:], size, strict=True)
        )
        scores = scores.detach().float()
        if coarse != tuple(scores.shape[1:]):
            scores = F.interpolate(scores[None], coarse, mode="bilinear", antialias=True)[0]
        tensors = self._packed(scores)
        path = self.path(video, frame)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"format": FORMAT, "height": str(size[0]), "width": str(size[1])}
            with whole_file(path) as part:
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part, metadata)
            return path.stat().st_size
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot write ({error}); free the disk or choose another folder") from None

    def _packed(self, scores: Tensor) -> dict[str, Tensor]:
        """Return float32 scores [K, h, w] as the file holds them."""
        limit = torch.finfo(torch.float16).max
        if self.format.dtype == "float16":
            return {"scores": scores.clamp(-limit, limit).half()}
        if self.format.norm == "none":
            peak = scores.amax(0).clamp(-limit, limit).half()
            low = scores.amin(0).clamp_min(-limit)
            if self.format.kind != "masks" or bool((low < 0).any()):
                low = torch.maximum(low, peak.float() - SPAN)
            low = low.half()
            step = (peak.float() - low.float()).clamp_min_(torch.finfo(torch.float32).tiny) / 255
            return {"peak": peak, "low": low, "ratio": _bytes((scores - low.float()) / step)}
        peak = scores.amax(0).clamp_min(torch.finfo(torch.float16).smallest_normal)
        return {"peak": peak.half(), "ratio": _bytes(scores / peak * 255)}

    def _unpacked(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return float32 logits [K, h, w] of what a file holds."""
        if self.format.dtype == "float16":
            return tensors["scores"].float()
        ratio, peak = tensors["ratio"].float(), tensors["peak"].float()
        if self.format.norm == "none":
            low = tensors["low"].float()
            return ratio.div_(255).mul_(peak - low).add_(low)
        return ratio.clamp_min_(FLOOR).div_(255).mul_(peak).log_()

    def read(self, video: str, frame: str, device: torch.device | str = "cpu") -> tuple[Tensor, tuple[int, int]]:
        """Read one frame as logits.

        Args:
            video: its name.
            frame: its name.
            device: where they go.

        Returns:
            float32 [1, K, h, w]: logarithms of shares, or scores as the model gave them; and (H, W) of the frame.

        Raises:
            InputError: missing, damaged, or with another number of classes.
        """
        path = self.path(video, frame)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                size = int(metadata["height"]), int(metadata["width"])
                tensors = {name: file.get_tensor(name) for name in self.format.tensors}
        except FileNotFoundError:
            raise InputError(
                f"{path}: expected the scores of frame {frame} of video {video}, found no file; store this split"
            ) from None
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: expected a score map, came a damaged file ({error}); store it again") from None
        scores = self._unpacked({name: tensor.to(device) for name, tensor in tensors.items()})  # the small form travels
        if len(scores) != len(self.label_space):
            raise InputError(f"{path}: expected {len(self.label_space)} classes, came {len(scores)}; store it again")
        return scores[None], size


def _bytes(steps: Tensor) -> Tensor:
    return steps.round_().clamp_(0, 255).to(torch.uint8)


def is_score_folder(path: str | Path) -> bool:
    """Whether a path is a folder of score maps."""
    return (Path(path) / DESCRIPTION).is_file()
