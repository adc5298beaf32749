"""Score maps on disk: what a model thinks of every class in every cell of a frame, small enough to keep a test set.

A folder holds `score_maps.json` (format, norm, dtype, stride), `labels.json` (the classes) and of each frame
<video>/<frame>.safetensors. With dtype "uint8" (3.2 MB for 124 classes at 480x853, stride 4) the file holds

    peak    float16 [h, w]      the highest share of each cell
    ratio   uint8 [K, h, w]     round(255 * share / peak)

and a share is peak * max(ratio, 1/4) / 255: exact to 0.2 % of its cell's peak; a ratio of 0 stands for "little", not
for "never", so that its logarithm stays moderate. With dtype "float16" (6.4 MB) it holds "scores" float16 [K, h, w] as
the model gave them. The metadata of each file name the frame's height and width. Why not whole frames: 124 x 480 x 853
in float16 is 102 MB a frame, 2.9 TB for the VSPW test set.
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
FLOOR = 0.25
"""What a ratio of 0 is read as, in steps of 1/255."""


@dataclass(frozen=True)
class ScoreFormat:
    """What a folder of score maps holds.

    Attributes:
        norm: what was done to the model's scores: "softmax" or "l1" for shares, "none" for scores as they come.
        dtype: "uint8" for shares, "float16" for scores as they come.
        stride: pixels per cell, at least; coarser scores stay as they are.
    """

    norm: str = "softmax"
    dtype: ScoreDtype = "uint8"
    stride: int = 4

    def __post_init__(self) -> None:
        if self.dtype not in get_args(ScoreDtype) or (self.dtype == "float16") != (self.norm == "none"):
            raise InputError(
                f"score maps: expected uint8 with norm softmax or l1, or float16 with norm none, came {self.dtype} "
                f"with norm {self.norm}"
            )
        if self.stride < 1:
            raise InputError(f"score maps: expected a stride of at least 1, came {self.stride}")


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
        if self.format.dtype == "float16":
            limit = torch.finfo(torch.float16).max
            tensors = {"scores": scores.clamp(-limit, limit).half()}
        else:
            peak = scores.amax(0).clamp_min(torch.finfo(torch.float16).smallest_normal)
            tensors = {"peak": peak.half(), "ratio": (scores / peak * 255).round_().clamp_(0, 255).to(torch.uint8)}
        path = self.path(video, frame)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"format": FORMAT, "height": str(size[0]), "width": str(size[1])}
            with whole_file(path) as part:
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part, metadata)
            return path.stat().st_size
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot write ({error}); free the disk or choose another folder") from None

    def read(self, video: str, frame: str) -> tuple[Tensor, tuple[int, int]]:
        """Read one frame as logits.

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
                if self.format.dtype == "float16":
                    scores = file.get_tensor("scores").float()
                else:
                    ratio = file.get_tensor("ratio").float().clamp_min_(FLOOR)
                    scores = ratio.div_(255).mul_(file.get_tensor("peak").float()).log_()
        except FileNotFoundError:
            raise InputError(
                f"{path}: expected the scores of frame {frame} of video {video}, found no file; store this split"
            ) from None
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: expected a score map, came a damaged file ({error}); store it again") from None
        if len(scores) != len(self.label_space):
            raise InputError(f"{path}: expected {len(self.label_space)} classes, came {len(scores)}; store it again")
        return scores[None], size


def is_score_folder(path: str | Path) -> bool:
    """Whether a path is a folder of score maps."""
    return (Path(path) / DESCRIPTION).is_file()
