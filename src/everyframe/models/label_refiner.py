"""Refining labels that were moved along optical flow, by the frame and a model's view of it: Warp-Refine's network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from everyframe.errors import writing
from everyframe.files import whole_file
from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.state import load_state, read_state, save_tensors

LEAST = 1e-4
"""Probability that a class has at least, so that it has a logarithm."""


class LabelRefiner(nn.Module):
    """Joins moved labels with the frame and a model's prediction of it, and learns where to trust which.

    After Ganeshan et al., "Warp-Refine Propagation: Semi-Supervised Auto-labeling via Cycle-consistency" (ICCV 2021),
    of which no code is public; the layers are ours. Labels where they are known and the prediction elsewhere are the
    start (the paper's warp-inpaint, which is what an untrained refiner gives); three 3x3 convolutions say per pixel how
    far to lean towards the prediction, and how to change the classes.

    Args:
        num_classes: K.
        width: channels of the convolutions.
    """

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.read_moved = nn.Conv2d(num_classes, width, 1, bias=False)
        self.read_prior = nn.Conv2d(num_classes, width, 1, bias=False)
        self.read_frame = ConvNormAct(3, width, 3, norm="none")  # borders of objects, where flow is least right
        self.trunk = nn.Sequential(
            ConvNormAct(3 * width + 1, width, 3, norm="none"),
            ConvNormAct(width, width, 3, dilation=2, norm="none"),
            ConvNormAct(width, width, 3, dilation=4, norm="none"),
        )
        self.trust = nn.Conv2d(width, 1, 1)
        self.change = nn.Conv2d(width, num_classes, 1)
        for parameter in (*self.trust.parameters(), *self.change.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, moved: Tensor, prior: Tensor, frame: Tensor) -> Tensor:
        """Refine the labels of a frame.

        Args:
            moved: probabilities of the classes, moved here from another frame, [N, K, H, W]; they sum to 1 where the
                label is known, to 0 where nothing is.
            prior: the model's probabilities, [N, K, H, W].
            frame: 0..255 RGB, [N, 3, H, W].

        Returns:
            Log-probabilities [N, K, H, W].
        """
        known = moved.sum(1, keepdim=True)
        start = (moved + (1 - known).clamp(min=0) * prior).clamp(min=LEAST).log()
        read = (self.read_moved(moved), self.read_prior(prior), self.read_frame(frame / 127.5 - 1), known)
        seen = self.trunk(torch.cat(read, dim=1))
        towards_prior = prior.clamp(min=LEAST).log() - start
        return (start + self.trust(seen) * towards_prior + self.change(seen)).log_softmax(1)


def save_refiner(refiner: LabelRefiner, path: str | Path) -> None:
    """Write a refiner's weights to a .safetensors file.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            save_tensors(part, {name: value.cpu() for name, value in refiner.state_dict().items()})


def load_refiner(path: str | Path) -> LabelRefiner:
    """Read what `save_refiner` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    state = read_state(path)
    classes, width = state["change.weight"].shape[:2] if "change.weight" in state else (1, 1)  # (refused just below)
    refiner = LabelRefiner(classes, width)
    load_state(refiner, state, path)
    return refiner.eval()
