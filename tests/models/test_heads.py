"""The head contract for every entry of the zoo, published parameter counts, and hand-computed parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.models.cost import count_parameters
from everyframe.models.heads.base import Head
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.heads.ocr import ObjectAttention, OCRHead, gather_regions
from everyframe.models.heads.panoptic_deeplab import PanopticDeepLabHead
from everyframe.models.heads.psp import PyramidPooling
from everyframe.models.ops.resize import join_maps
from everyframe.models.zoo import HEADS, SEVERAL_SCALES

CHANNELS, STRIDES, CLASSES = (8, 12, 16, 20), (4, 8, 16, 32), 5


def maps(height: int, width: int, batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]


@pytest.fixture(params=[head for head in HEADS if head not in SEVERAL_SCALES])
def head(request: pytest.FixtureRequest) -> Head:
    return HEADS[request.param](CHANNELS, STRIDES, CLASSES)


@pytest.mark.parametrize("size", [(64, 96), (101, 75), (33, 127)])
def test_logits_cover_the_frame_at_the_stated_stride(head: Head, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = head.eval()(maps(*size))
    assert logits.shape == (2, CLASSES, *(-(-side // head.stride) for side in size))


def test_gradient_reaches_every_parameter(head: Head) -> None:
    with torch.no_grad():
        for p in head.parameters():
            if p.ndim > 1 and not p.any():  # weights that start at 0 hide what stands before them
                p.normal_(std=0.1)
    seen = head.train().maps(lambda x: maps(*x.shape[-2:]), torch.zeros(2, 3, 70, 90))  # at all scales it wants
    embedding = head.embed(seen)
    logits = head.semantic(head.predict(embedding))
    loss = (logits * torch.randn_like(logits)).sum() + embedding.get("auxiliary", logits).square().sum()
    loss.backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    assert [name for name, p in head.named_parameters() if p.ndim > 1 and not p.grad.abs().sum() > 0] == []


def test_embedding_has_the_pixels_that_temporal_modules_change(head: Head) -> None:
    embedding = head.eval().embed(maps(64, 96))
    assert embedding["pixels"].shape == (2, head.channels, 64 // head.stride, 96 // head.stride)
    late = head.late_map(maps(64, 96))
    assert late.shape[1] == head.late_channels
    assert head.num_classes == CLASSES


def test_frames_of_a_batch_do_not_see_each_other(head: Head) -> None:
    both = maps(64, 96)
    with torch.no_grad():
        together = head.eval()(both)
        alone = torch.cat([head([x[i : i + 1] for x in both]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


SWIN_SMALL = 48_835_722


@pytest.mark.parametrize(("name", "parameters"), [("psp", 15_305_592), ("ocr", 6_625_272)])
def test_parameters_on_swin_small_with_124_classes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        head = HEADS[name]((96, 192, 384, 768), STRIDES, 124)
    assert count_parameters(head) == parameters
    assert round((SWIN_SMALL + parameters) / 1e6, 2) == {"psp": 64.14, "ocr": 55.46}[name]


def test_ocr_parts_have_the_published_parameters() -> None:
    with torch.device("meta"):
        head = OCRHead((96, 192, 384, 768), STRIDES, 124)
    parts = {"neck": 3_540_480, "auxiliary": 1_834_620, "attention": 660_736, "fuse": 525_824, "classifier": 63_612}
    assert {name: count_parameters(getattr(head, name)) for name in parts} == parts


def test_auxiliary_logits_for_the_loss_alone_are_left_out_in_eval_mode() -> None:
    head = HEADS["psp"](CHANNELS, STRIDES, CLASSES)
    assert "auxiliary" in head.train().embed(maps(64, 96))
    assert "auxiliary" not in head.eval().embed(maps(64, 96))
    assert HEADS["psp"](CHANNELS, STRIDES, CLASSES, auxiliary_width=0).auxiliary is None


# -- Panoptic-DeepLab -------------------------------------------------------------------------------------------------


def test_panoptic_deeplab_by_its_layers() -> None:
    """One 5x5 separable convolution for each finer map and one more, computed with the functions of torch."""
    head = PanopticDeepLabHead(CHANNELS, STRIDES, CLASSES, width=16, dilations=(1, 2)).eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)

    def block(x: Tensor, name: str, groups: int = 1) -> Tensor:
        weights = {
            key.removeprefix(f"{name}."): v for key, v in head.state_dict().items() if key.startswith(f"{name}.")
        }
        kernel = weights["conv.weight"]
        x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=groups)
        statistics = (weights["norm.running_mean"], weights["norm.running_var"])
        return F.batch_norm(x, *statistics, weights["norm.weight"], weights["norm.bias"]).relu()

    def wide(x: Tensor, name: str) -> Tensor:
        assert head.get_submodule(f"{name}.0").conv.kernel_size == (5, 5)
        return block(block(x, f"{name}.0", groups=x.shape[1]), f"{name}.1")

    seen = maps(64, 96)
    with torch.no_grad():
        x = head.pyramid(seen[-1])
        for n, fine in enumerate((seen[1], seen[0])):
            x = F.interpolate(x, fine.shape[-2:], mode="bilinear", align_corners=False)
            x = wide(torch.cat([x, block(fine, f"squeeze.{n}")], 1), f"fuse.{n}")
        want = F.conv2d(wide(x, "refine"), head.classifier.weight, head.classifier.bias)
        torch.testing.assert_close(head(seen), want, rtol=1e-4, atol=1e-5)


def test_panoptic_deeplab_has_the_published_widths() -> None:
    """On ResNet-50's maps: pyramid 256, skips 64 and 32, one separable convolution of 256 after each and at the end."""

    def norm(channels: int) -> int:
        return 2 * channels

    def separable(into: int) -> int:
        return 25 * into + norm(into) + into * 256 + norm(256)

    pyramid = 2 * (2048 * 256 + norm(256)) + 3 * (2048 * 256 * 9 + norm(256)) + 5 * 256 * 256 + norm(256)
    skips = 512 * 64 + norm(64) + 256 * 32 + norm(32)
    decoder = separable(256 + 64) + separable(256 + 32) + separable(256)
    with torch.device("meta"):
        head = HEADS["panoptic-deeplab"]((256, 512, 1024, 2048), (4, 8, 16, 16), 19)
    assert count_parameters(head) == pyramid + skips + decoder + 256 * 19 + 19
    assert [branch.conv.dilation[0] for branch in head.pyramid.branches] == [1, 6, 12, 18]


def test_panoptic_deeplab_wants_a_width_for_each_fine_map() -> None:
    with pytest.raises(ValueError, match="came 1 widths for 2 maps"):
        PanopticDeepLabHead(CHANNELS, STRIDES, CLASSES, fine_widths=(8,))


# -- Segmenter --------------------------------------------------------------------------------------------------------


def test_cosines_of_segmenter_are_compared_in_full_precision() -> None:
    """Under autocast the classes' scores are those of the rounded tokens, not rounded once more."""
    head = HEADS["segmenter"](CHANNELS, STRIDES, CLASSES, width=24).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pixels = head.embed(maps(64, 96))["pixels"]
        tokens = head.norm(head.blocks(torch.cat([pixels.flatten(2).mT, head.classes.expand(2, -1, -1)], 1)))
        patches, classes = head.to_patch(tokens[:, :-CLASSES]), head.to_class(tokens[:, -CLASSES:])
        logits = head.predict({"pixels": pixels})["logits"]
    cosines = F.cosine_similarity(patches.float()[:, :, None], classes.float()[:, None], dim=-1)
    want = F.layer_norm(cosines, (CLASSES,), head.mask_norm.weight, head.mask_norm.bias)
    torch.testing.assert_close(logits.flatten(2).mT, want, rtol=1e-3, atol=1e-3)


# -- OCR --------------------------------------------------------------------------------------------------------------


def test_gather_regions_by_hand() -> None:
    pixels = torch.tensor([[[[1.0, 3.0]], [[10.0, 30.0]]]])  # N D h w: two pixels of two channels
    even, all_on_second = [0.0, 0.0], [-100.0, 100.0]
    coarse = torch.tensor([[[even], [all_on_second]]])
    assert gather_regions(pixels, coarse).tolist() == [[[2.0, 20.0], [3.0, 30.0]]]


def test_attention_to_a_single_region_is_that_region_everywhere() -> None:
    attention = ObjectAttention(6, 4).eval()
    query = attention.query(torch.randn(1, 6, 3, 5))
    region = torch.randn(1, 1, 6)
    with torch.no_grad():
        got = attention.attend(query, region)
        value = attention.to_value(region.transpose(1, 2)[..., None])
        want = attention.to_output(value).expand(1, 6, 3, 5)
        torch.testing.assert_close(got, want)
        # a masked second region changes nothing
        two = torch.cat([region, torch.randn(1, 1, 6)], 1)
        masked = attention.attend(query, two, mask=torch.tensor([[True, False]]))
    torch.testing.assert_close(masked, got)


def test_attention_by_its_formula() -> None:
    attention = ObjectAttention(6, 4).eval()
    pixels, regions = torch.randn(2, 6, 3, 5), torch.randn(2, 7, 6)
    with torch.no_grad():
        tokens = regions.transpose(1, 2)[..., None]
        query = attention.to_query(pixels).flatten(2).transpose(1, 2)
        weights = (query @ attention.to_key(tokens).squeeze(-1) / 4**0.5).softmax(-1)
        context = weights @ attention.to_value(tokens).squeeze(-1).transpose(1, 2)
        want = attention.to_output(context.transpose(1, 2).unflatten(2, (3, 5)))
        torch.testing.assert_close(attention(pixels, regions), want, rtol=1e-4, atol=1e-5)


def test_a_temporal_module_can_replace_regions_and_add_context() -> None:
    head = OCRHead(CHANNELS, STRIDES, CLASSES, width=16, key_width=8).eval()
    with torch.no_grad():
        embedding = head.embed(maps(64, 96))
        plain = head.predict(embedding)["logits"]
        other = head.predict({**embedding, "regions": torch.randn(2, 9, 16)})["logits"]
        context = torch.randn_like(embedding["pixels"])
        more = head.predict({**embedding, "context": context})["logits"]
        zero = head.predict({**embedding, "context": torch.zeros_like(context)})["logits"]
    assert plain.shape == other.shape == more.shape
    assert not torch.allclose(plain, other)
    assert not torch.allclose(plain, more)
    torch.testing.assert_close(zero, plain)


def test_pixels_and_coarse_logits_meet_at_the_finer_grid() -> None:
    assert OCRHead(CHANNELS, STRIDES, CLASSES, width=16).stride == 16  # pixels of stride 32, coarse logits of 16
    fine = OCRHead(CHANNELS, STRIDES, CLASSES, width=16, index=(0, 1, 2, 3))
    assert fine.stride == 4
    assert fine.eval().embed(maps(64, 96))["pixels"].shape[-2:] == (16, 24)


# -- FCN and pyramid pooling ------------------------------------------------------------------------------------------


def test_join_maps_resizes_to_the_first_named() -> None:
    fine, coarse = torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 2, 2)
    assert join_maps([fine, coarse], 1) is coarse
    assert join_maps([fine, coarse], (0, 1)).shape == (1, 5, 4, 4)
    assert join_maps([fine, coarse], (1, 0)).shape == (1, 5, 2, 2)
    assert join_maps([fine, coarse], (0, 1))[:, 2:].eq(1).all()


def test_fcn_without_convolutions_classifies_the_map_itself() -> None:
    head = FCNHead(CHANNELS, STRIDES, CLASSES, width=20, num_convs=0, concat_input=False).eval()
    features = maps(64, 96)
    assert torch.equal(head.embed(features)["pixels"], features[-1])
    with pytest.raises(ValueError, match="width must be the map's 20, came 8"):
        FCNHead(CHANNELS, STRIDES, CLASSES, width=8, num_convs=0)


def test_pyramid_pooling_of_a_constant_map_is_constant() -> None:
    pyramid = PyramidPooling(3, 2, bins=(1, 2, 6)).eval()
    x = torch.ones(1, 3, 4, 5)  # smaller than 6 bins: bins overlap
    with torch.no_grad():
        y = pyramid(x)
    assert y.shape == (1, 3 + 3 * 2, 4, 5)
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))
    assert [tuple(cells.shape[-2:]) for cells in pyramid.pool(x)] == [(1, 1), (2, 2), (6, 6)]


@pytest.mark.parametrize("name", ["psp", "uper", "deeplab"])
def test_one_picture_cannot_be_normalised_over_the_batch(name: str) -> None:
    head, features = HEADS[name](CHANNELS, STRIDES, CLASSES), maps(64, 64, batch=1)
    with pytest.raises(InputError, match=r"two pictures or more .* came 1; set --data.batch_size 2"):
        head.train()(features)
    assert head.eval()(features).isfinite().all()


def test_clip_pooling_seam() -> None:
    """TCB averages the pooled maps of several frames; with one frame that is the plain pyramid."""
    pyramid = PyramidPooling(3, 2).eval()
    x, other = torch.randn(1, 3, 8, 9), torch.randn(1, 3, 8, 9)
    with torch.no_grad():
        torch.testing.assert_close(pyramid.spread(x, pyramid.pool(x)), pyramid(x))
        mean = [(a + b) / 2 for a, b in zip(pyramid.pool(x), pyramid.pool(other), strict=True)]
        assert not torch.allclose(pyramid.spread(x, mean), pyramid(x))
