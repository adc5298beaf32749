"""NetWarp: features of the previous frame, warped along optical flow, are added to the query's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.flow import Flow, batch_flow, open_flow
from everyframe.frames import Role
from everyframe.models.heads.base import Head
from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.ops.precision import without_autocast
from everyframe.models.ops.warp import FORMS, resize_flow, warp
from everyframe.models.temporal.base import Embedding, Features, Memory, TemporalModule
from everyframe.models.temporal.ring import scene_change, scene_signature, where_cut


class Previous(NamedTuple):
    """What is kept of the previous frame, before anything was added to it.

    Attributes:
        maps: its backbone pyramid.
        image: the frame, 0..255, [N, 3, H, W].
    """

    maps: tuple[Tensor, ...]
    image: Tensor


class FlowCNN(nn.Module):
    """Refines optical flow for features, from the flow and the two frames.

    Gadde et al., "Semantic Video CNNs through Representation Warping" (ICCV 2017), figure 2, with the eleven input
    channels of the VSPW code: flow, current frame, previous frame, their difference.

    Args:
        form: "corrected": the last two layers are linear, as flow has both signs, and start as the given flow.
            "vspw": every layer ends in a ReLU, so that the refined flow is never negative.
    """

    def __init__(self, form: str = "corrected") -> None:
        super().__init__()
        hidden = (ConvNormAct(11, 16, 3), ConvNormAct(16, 32, 3))
        if form != "corrected":
            self.convs = nn.Sequential(*hidden, ConvNormAct(32, 2, 3))
            self.join: nn.Module = ConvNormAct(4, 2, 3)
            return
        last, join = nn.Conv2d(32, 2, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1, bias=False)
        assert last.bias is not None
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)
        with torch.no_grad():  # the given flow and the refinement, added up
            join.weight.zero_()
            for i in range(2):
                join.weight[i, [i, i + 2], 1, 1] = 1.0
        self.convs, self.join = nn.Sequential(*hidden, last), join

    def forward(self, flow: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        """Refine `flow` [N, 2, H, W] between frames in 0..255, [N, 3, H, W]."""
        refined = self.convs(torch.cat([flow, current, previous, previous - current], dim=1))
        # In float32 whatever autocast says: half precision rounds long displacements to whole cells.
        with without_autocast(flow):
            return self.join(torch.cat([flow, refined.float()], dim=1))


class NetWarp(TemporalModule[Head]):
    """Adds warped features of the previous frame at two places: the coarsest map, and the head's late map.

    z' = w0 * z_t + w1 * warp(z_{t-1}), with a learned weight per channel, starting at (1, 0): an untrained module
    leaves the per-frame model as it was. Gadde et al. (ICCV 2017), at the two places of the VSPW code. At the first
    frame of a video, and after a scene cut, the frame stands in for its predecessor.

    Args:
        head: any head.
        channels: of the backbone's coarsest map.
        flow: where flow from the query to the previous frame comes from: "dis" (OpenCV, no weights), "raft"
            (torchvision, downloads weights), "raft:WEIGHTS.pth", or an object with `between`. It is no part of the
            weights. The VSPW code has RAFT trained on FlyingThings.
        form: "corrected": flow resized bilinearly and scaled to cells. "vspw": the authors' code, with nearest
            resizing, no scaling, and shifted sampling; see also `FlowCNN` and `warp`.
        cut_threshold: see `everyframe.models.temporal.ring.scene_change`; 2 never finds a cut.
    """

    needs_image = True
    own_maps = False

    def __init__(
        self,
        head: Head,
        channels: int,
        flow: str | Flow = "dis",
        form: str = "corrected",
        cut_threshold: float = 0.3,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"NetWarp: expected form to be one of {', '.join(FORMS)}, came {form!r}")
        self.adjacent = (-1,)
        open_flow(flow)  # an unknown name is refused here
        self.flow = flow
        self.form = form
        self.cut_threshold = cut_threshold
        self.flow_cnn = FlowCNN(form)
        self.coarse_weights = _weights(channels)
        self.late_weights = _weights(head.late_channels)

    def embed(self, maps: Sequence[Tensor], head: Head) -> Embedding:
        """See `TemporalModule.embed`: nothing but what the loss needs; the rest waits for the previous frame."""
        return head.embed_auxiliary(maps)

    def gather(self, frames: Sequence[Features], roles: Sequence[Role], head: Head) -> Previous:
        """See `TemporalModule.gather`."""
        return _kept(frames[-1])

    def forward(self, query: Features, memory: Memory, head: Head) -> tuple[Embedding, Memory]:
        """See `TemporalModule.forward`."""
        current = _kept(query)
        if memory is None or memory.image.shape != current.image.shape:
            memory, cut = current, torch.ones(len(current.image), dtype=torch.bool, device=current.image.device)
        else:
            change = scene_change(scene_signature(memory.maps[0]), scene_signature(current.maps[0]))
            cut = change > self.cut_threshold
            maps = zip(current.maps, memory.maps, strict=True)
            image = where_cut(cut, current.image, memory.image)
            memory = Previous(tuple(where_cut(cut, now, before) for now, before in maps), image)
        flow = self.refined_flow(current.image, memory.image, cut)
        coarse = self.blend(self.coarse_weights, current.maps[-1], memory.maps[-1], flow)
        late = head.late_map((*current.maps[:-1], coarse))
        late = self.blend(self.late_weights, late, head.late_map(memory.maps), flow)
        return {**query.embedding, **head.embed_late(late)}, current

    def refined_flow(self, current: Tensor, previous: Tensor, still: Tensor) -> Tensor:
        """Return flow from the current to the previous frame in pixels, [N, 2, H, W].

        Args:
            current: 0..255, [N, 3, H, W].
            previous: likewise.
            still: bool [N], where the two are the same frame, between which nothing moves.
        """
        flow = current.new_zeros(len(current), 2, *current.shape[-2:], dtype=torch.float32)
        if not current.is_meta and not still.all():  # (on "meta", where costs are counted, nothing is to be followed)
            flow[~still] = batch_flow(self.flow, current[~still], previous[~still]).to(flow)
        return self.flow_cnn(flow, current.float(), previous.float())

    def blend(self, weights: Tensor, current: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """Return w0 * current + w1 * warped previous for maps [N, C, h, w] and flow in pixels [N, 2, H, W]."""
        size = current.shape[-2:]
        if self.form == "corrected":
            warped = warp(previous, resize_flow(flow, size), border="border")
        else:
            warped = warp(previous, F.interpolate(flow, size, mode="nearest"), form="vspw")
        return weights[0, :, None, None] * current + weights[1, :, None, None] * warped


def _kept(frame: Features) -> Previous:
    assert frame.image is not None, "needs_image makes the segmenter fill it"
    return Previous(frame.maps, frame.image)


def _weights(channels: int) -> nn.Parameter:
    """Return (w0, w1) for each channel, [2, C]."""
    return nn.Parameter(torch.stack([torch.ones(channels), torch.zeros(channels)]))
