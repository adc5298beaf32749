"""Segmentation models of the `transformers` library, run as they are: one predictor class per way to get label maps.

Pixels are prepared by the library's own processor, with the settings of the model's preprocessor_config.json, as
tensors on the model's device. What its `post_process_semantic_segmentation` does after the network is done here at the
resolution of the scores; enlarging them to the frame is left to the caller, as for every predictor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.heads.mask2former.head import semantic_scores
from everyframe.models.segmenter import Segmenter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Prepared = Mapping[str, Any]
"""What the library's processor returns: "pixel_values" [N, 3, h, w] float, and what else the network wants."""


class TransformersModel(nn.Module, ABC):
    """A predictor around a network of `transformers`; made by `everyframe.load`.

    Args:
        network: the library's model.
        processor: the library's image or video processor that goes with it.
        label_space: classes, in the order of the network's outputs.
    """

    predicts = "logits"
    """What its scores are: "logits" of each pixel, or sums over "masks"; as of our own heads."""
    input_type = "images"
    """What the network sees: "images" one by one, or "videos"."""
    processor_options: Mapping[str, Any] = MappingProxyType({})
    """What is asked of the processor beyond the model's own settings."""

    def __init__(self, network: PreTrainedModel, processor: Any, label_space: LabelSpace) -> None:
        super().__init__()
        self.network = network
        self.processor = processor
        self.label_space = label_space
        if getattr(processor, "do_center_crop", False):
            raise InputError(
                "preprocessor_config.json: expected the whole picture to reach the model, came do_center_crop, which "
                "leaves the borders of every frame without labels; set it to false"
            )

    @abstractmethod
    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Predict the next frame.

        Args:
            frame: uint8 [B, 3, H, W], RGB.
            state: what the previous step returned; None at the first frame.

        Returns:
            scores [B, K, h, w] that cover the whole frame, their largest being the answer, and the next state.
        """

    def prepare(self, frame: Tensor) -> Prepared:
        """Resize and normalise frames, uint8 [B, 3, H, W], as the model's own settings say."""
        return self.processor(
            list(frame), input_data_format="channels_first", return_tensors="pt", **self.processor_options
        )

    stream = Segmenter.stream

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network (config.json, safetensors) and its processor; `everyframe.load(folder)` reads them."""
        self.network.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class PerPixelModel(TransformersModel):
    """Networks that predict logits for each pixel: SegFormer, UperNet, BEiT, DPT."""

    def step(self, frame: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Return logits [B, K, h, w] at the network's stride. See `TransformersModel.step`."""
        return self.network(pixel_values=self.prepare(frame)["pixel_values"]).logits, None


class MaskModel(TransformersModel):
    """Networks that predict masks and their classes: MaskFormer, Mask2Former.

    The scores are no logits but sums over queries, class probability times mask probability: see `semantic_scores`.

    Args:
        network: see `TransformersModel`.
        processor: see `TransformersModel`.
        label_space: see `TransformersModel`.
        mask_size: (h, w) to which masks are enlarged before their sigmoid; None leaves them.
    """

    predicts = "masks"
    # Padding serves batches of pictures of different sizes; the frames of a batch have one.
    processor_options: Mapping[str, Any] = MappingProxyType({"pad_size": None})

    def __init__(
        self, network: PreTrainedModel, processor: Any, label_space: LabelSpace, mask_size: Sequence[int] | None = None
    ) -> None:
        super().__init__(network, processor, label_space)
        self.mask_size = mask_size

    def step(self, frame: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Return scores [B, K, h, w] in 0..Q. See `TransformersModel.step`."""
        outputs = self.network(pixel_values=self.prepare(frame)["pixel_values"])
        return semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits, self.mask_size), None


class Mask2FormerModel(MaskModel):
    """Mask2Former: the library enlarges all masks to 384x384, whatever the shape of the picture, and so do we."""

    def __init__(self, network: PreTrainedModel, processor: Any, label_space: LabelSpace) -> None:
        super().__init__(network, processor, label_space, mask_size=(384, 384))


class SquareMaskModel(TransformersModel):
    """Networks that predict masks of square pictures of one size: EoMT, EoMT-DINOv3.

    By the model's own settings a frame is either cut along its longer side into overlapping squares, whose scores are
    averaged (`do_split_image`, semantic checkpoints), or padded to a square (`do_pad`, panoptic checkpoints). The
    library's semantic post-processing forgets the padding and stretches it over the frame; here it is cut off, as its
    panoptic post-processing does.
    """

    predicts = "masks"

    def __init__(self, network: PreTrainedModel, processor: Any, label_space: LabelSpace) -> None:
        super().__init__(network, processor, label_space)
        self.side = int(processor.size["shortest_edge"] or 0)
        _check_side(network, (self.side, processor.size["longest_edge"] or self.side))
        if not (processor.do_split_image or processor.do_pad):
            raise InputError(
                "preprocessor_config.json: expected do_split_image or do_pad, which bring frames to the square that "
                "this model takes, came neither; set do_split_image to true"
            )

    def step(self, frame: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Return scores [B, K, h, w] in 0..Q. See `TransformersModel.step`."""
        prepared = self.prepare(frame)
        outputs = self.network(pixel_values=prepared["pixel_values"])
        scores = semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits, (self.side, self.side))
        if self.processor.do_split_image:
            return self._merge(scores, prepared["patch_offsets"], frame), None
        height, width = self._resized(frame)
        return scores[..., :height, :width], None

    def _merge(self, scores: Tensor, offsets: Sequence[Tensor], frame: Tensor) -> Tensor:
        """Average the scores of squares [N, K, S, S] into those of the frames, [B, K, S, L] or [B, K, L, S]."""
        tall = frame.shape[-2] > frame.shape[-1]
        places = [tuple(map(int, offset)) for offset in offsets]  # (frame in the batch, first, last + 1)
        length = max(end for _, _, end in places)
        total = scores.new_zeros(len(frame), scores.shape[1], self.side, length)
        count = scores.new_zeros(length)
        for square, (index, start, end) in zip(scores, places, strict=True):
            total[index, ..., start:end] += square.mT if tall else square
            if index == 0:
                count[start:end] += 1
        total /= count
        return total.mT if tall else total

    def _resized(self, frame: Tensor) -> tuple[int, int]:
        """Return the (height, width) that the processor gives a frame before it pads it."""
        from transformers.image_transforms import get_size_with_aspect_ratio

        return get_size_with_aspect_ratio(tuple(frame.shape[-2:]), self.side, self.side)


class OnlineMaskModel(TransformersModel):
    """VidEoMT: the queries of each frame start from those of the frame before, so nothing waits and nothing repeats.

    Norouzi et al., "Your ViT is Secretly Also a Video Segmentation Model", 2026, section 3 (query propagation and
    fusion). The library's `forward` walks through whole clips; this is the same walk, one frame at a time, through the
    network's own layers: the numbers are those of one clip as long as the video.
    """

    predicts = "masks"
    input_type = "videos"
    processor_options: Mapping[str, Any] = MappingProxyType({"do_sample_frames": False})

    def __init__(self, network: PreTrainedModel, processor: Any, label_space: LabelSpace) -> None:
        super().__init__(network, processor, label_space)
        _check_side(network, (processor.size["height"], processor.size["width"]))

    def prepare(self, frame: Tensor) -> Prepared:
        """Resize and normalise frames, uint8 [B, 3, H, W]: "pixel_values_videos" [B, 1, 3, h, w]."""
        return super().prepare(frame.unsqueeze(1))

    def step(self, frame: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return scores [B, K, h, w] in 0..Q, and the queries [B, Q, C] for the next frame.

        See `TransformersModel.step`.
        """
        net: Any = self.network
        hidden = net.embeddings(self.prepare(frame)["pixel_values_videos"].flatten(0, 1))
        fusion = len(net.layers) - net.config.num_blocks  # the first layer that sees queries
        for layer in net.layers[:fusion]:
            hidden = layer(hidden)
        queries = net.query.weight.expand(len(frame), -1, -1)
        if state is not None:
            queries = queries + net.query_updater(state)
        hidden = torch.cat([queries, hidden], 1)
        for layer in net.layers[fusion:]:
            hidden = layer(hidden)
        masks, classes = net.predict(net.layernorm(hidden))
        return semantic_scores(classes, masks), hidden[:, : net.config.num_queries].contiguous()


FAMILIES: dict[str, tuple[str, type[TransformersModel]]] = {
    "beit": ("BeitForSemanticSegmentation", PerPixelModel),
    "dpt": ("DPTForSemanticSegmentation", PerPixelModel),
    "eomt": ("EomtForUniversalSegmentation", SquareMaskModel),
    "eomt_dinov3": ("EomtDinov3ForUniversalSegmentation", SquareMaskModel),
    "mask2former": ("Mask2FormerForUniversalSegmentation", Mask2FormerModel),
    "maskformer": ("MaskFormerForInstanceSegmentation", MaskModel),
    "segformer": ("SegformerForSemanticSegmentation", PerPixelModel),
    "upernet": ("UperNetForSemanticSegmentation", PerPixelModel),
    "videomt": ("VideomtForUniversalSegmentation", OnlineMaskModel),
}
"""`model_type` in config.json -> the library's class, and how its outputs become scores."""


def _check_side(network: Any, size: tuple[int, int]) -> None:
    """Refuse a processor that makes pictures of another size than the network's grid of patches."""
    side = network.config.image_size
    side = tuple(side) if isinstance(side, list | tuple) else (side, side)
    if tuple(size) != side:
        raise InputError(
            f"preprocessor_config.json: expected a size of {side[0]}x{side[1]}, which config.json says this model "
            f"takes, came {size[0]}x{size[1]}; make the two agree"
        )
