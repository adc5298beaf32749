"""The contrastive loss as a term of an objective: which features, which labels, which clips."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.losses.contrastive import Positives, cell_labels, contrastive_loss
from everyframe.models.segmenter import Prediction, Segmenter


class ContrastiveTerm(nn.Module):
    """Mean of the contrastive loss over the clips of a batch, each clip on its own.

    All frames of a clip take part, whatever their role: two frames are the paper's NCE2, four NCE4. Frames without
    labels are ignored. Clips that show a single frame (still images) and batches of them leave the loss: it is 0.

    Args:
        feature: name in the head's embedding, such as "pixels" (of Mask2Former, "memory2" is the encoder's map at
            stride 8, "memory0" the one at 32), or the number of a backbone map (0 the finest, -1 the coarsest).
        temperature: see `contrastive_loss`.
        positives: see `contrastive_loss`.
        purity: see `cell_labels`.
        products: see `contrastive_loss`.
        channels: channels of the feature, needed with a projection.
        projection: channels that two 1x1 convolutions with batch norm and ReLU between them bring the feature to; 0
            compares the feature itself. The projection belongs to the objective: no model carries it after training.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(
        self,
        feature: str | int = "pixels",
        temperature: float = 0.1,
        positives: Positives = "clip",
        purity: float | None = None,
        products: torch.dtype | None = None,
        channels: int = 0,
        projection: int = 0,
    ) -> None:
        super().__init__()
        if projection < 0 or (projection and channels < 1):
            raise InputError(
                f"objective.contrastive: expected a projection to 0 or more channels, and the channels of the feature "
                f"with one, came projection {projection}, channels {channels}"
            )
        self.feature = feature
        self.temperature = temperature
        self.positives: Positives = positives
        self.purity = purity
        self.products = products
        self.projection: nn.Module = _projection(channels, projection) if projection else nn.Identity()

    def forward(self, prediction: Prediction, clip: Clip) -> Tensor:
        """See `everyframe.training.objective.Term`."""
        batch, frames = clip.labels.shape[:2]
        features = self.projection(self._chosen(prediction))
        labels = cell_labels(clip.labels.flatten(0, 1), (features.shape[-2], features.shape[-1]), self.purity)
        moving = (clip.indices != clip.indices[:, :1]).any(1).tolist()
        clips = zip(features.unflatten(0, (batch, frames)), labels.unflatten(0, (batch, frames)), moving, strict=True)
        losses = [
            contrastive_loss(x, y, self.temperature, self.positives, self.products) for x, y, moves in clips if moves
        ]
        # Also without a moving clip every parameter gets a gradient, so that processes stay in step.
        return torch.stack(losses).mean() if losses else 0 * features.sum()

    def _chosen(self, prediction: Prediction) -> Tensor:
        """Features [B*T, C, h, w] of all frames."""
        maps, embedding = prediction.features.maps, prediction.features.embedding
        if isinstance(self.feature, int) and -len(maps) <= self.feature < len(maps):
            return maps[self.feature]
        chosen = embedding.get(self.feature) if isinstance(self.feature, str) else None
        if chosen is None or chosen.ndim != 4:
            there = [name for name, x in embedding.items() if x.ndim == 4]
            raise InputError(
                f"objective.contrastive_feature: expected one of {', '.join(there)} or the number of a backbone map "
                f"0..{len(maps) - 1}, came {self.feature!r}"
            )
        return chosen


def feature_channels(model: Segmenter, feature: str | int) -> int:
    """Channels of a feature of a model: a backbone map's, or those that the maps of all heads' embeddings share.

    Raises:
        InputError: the backbone has no such map.
    """
    if isinstance(feature, str):
        return model.head.num_classes if feature == "auxiliary" else model.head.channels
    channels: list[int] = list(model.backbone.channels)  # type: ignore[arg-type]
    if not -len(channels) <= feature < len(channels):
        raise InputError(
            f"objective.contrastive_feature: expected the number of a backbone map 0..{len(channels) - 1}, "
            f"came {feature}"
        )
    return channels[feature]


def _projection(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, width, 1),
    )
