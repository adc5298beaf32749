"""SSLTM on any head: where contexts meet the pixels, what they are gathered by, and that every part of it counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.frames import Role
from everyframe.labels import LabelSpace
from everyframe.models.heads.ocr import OCRHead, gather_regions
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.context_site import OCRSite, PixelContext, PixelSite, context_site
from everyframe.models.zoo import HEADS, SEVERAL_SCALES, SYSTEMS, create_model

CHANNELS, STRIDES, CLASSES = (8, 12, 16, 20), (4, 8, 16, 32), 3
ROLES = (Role.REFERENCE, Role.ADJACENT, Role.ADJACENT, Role.QUERY)
ON_ANY_HEAD = [name for name, (_, time) in SYSTEMS.items() if time == "ssltm"]


def maps(batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def built(system: str = "mask2former-ssltm", **temporal: Any) -> Segmenter:
    torch.manual_seed(0)
    model = create_model(
        f"{system}-tiny", LabelSpace(("a", "b", "c")), backbone={"width": 8, "stem_width": 8}, temporal=temporal
    )
    if getattr(model.temporal, "prototypes", None) is not None:
        channels = model.temporal.site.channels
        model.temporal.prototypes.observe(torch.randn(4, channels, 8, 8), torch.randint(0, 3, (4, 8, 8)).byte())
    return model.eval()


def clip() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (1, 4, 3, 40, 56), dtype=torch.uint8)


def outputs(model: Segmenter, frames: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(frames, ROLES).outputs
    return model.head.semantic({name: x.flatten(0, 1) for name, x in found.items()})


def changed(model: Segmenter, frames: Tensor, at: int) -> float:
    """How far the query's prediction moves when another frame of the clip is another picture, as a share of it."""
    other = frames.clone()
    other[:, at] = 255 - other[:, at]
    before = outputs(model, frames)
    return ((before - outputs(model, other)).abs().max() / before.abs().max()).item()


# -- the site ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [head for head in HEADS if head not in SEVERAL_SCALES])
def test_embed_is_made_of_two_halves(name: str) -> None:
    """What a site changes between them reaches the prediction: the shared map is on its way."""
    head = HEADS[name](CHANNELS, STRIDES, CLASSES).eval()
    features = maps()
    with torch.no_grad():
        whole, begun = head.embed(features), head.begin(features)
        assert begun[head.shared].shape[1] == head.channels
        joined = head.complete(begun)
        assert set(joined) == set(whole)
        assert all(torch.equal(joined[key], whole[key]) for key in whole)
        moved = {**begun, head.shared: begun[head.shared] + torch.randn_like(begun[head.shared])}
        differ = head.semantic(head.predict(head.complete(moved))) - head.semantic(head.predict(whole))
    assert differ.abs().max() > 1e-4


def test_join_by_hand() -> None:
    """With W = [I 0] and gamma = 1 the site adds what object attention finds, and further contexts."""
    head = HEADS["fcn"](CHANNELS, STRIDES, CLASSES)
    site = PixelSite(head).eval()
    d = head.channels
    with torch.no_grad():
        site.fuse.weight.copy_(torch.cat([torch.eye(d), torch.zeros(d, d)], 1)[..., None, None])
        site.fuse.bias.zero_()
        site.gamma.fill_(1.0)
        pixels, regions, more = torch.randn(2, d, 5, 7), torch.randn(2, 4, d), torch.randn(2, d, 5, 7)
        found = site.attention(pixels, regions)
        got = site.join({"regions": regions}, PixelContext(pixels, regions, context=more), head)
        assert set(got) == {"pixels"}
        torch.testing.assert_close(got["pixels"], pixels + found + more)
        known = site.join({}, PixelContext(pixels, regions, site.query(pixels, head)), head)["pixels"]
        torch.testing.assert_close(known, pixels + found)
        assert site.join({}, PixelContext(pixels), head)["pixels"] is pixels


@pytest.mark.parametrize("name", ["psp", "uper", "mask2former"])
def test_regions_are_gathered_by_coarse_scores(name: str) -> None:
    """By those of the auxiliary head where there is one (in eval mode too), else by the site's own."""
    head = HEADS[name](CHANNELS, STRIDES, CLASSES)
    site = PixelSite(head)
    features = maps()
    for mode in (True, False):
        torch.manual_seed(0)
        found = site.train(mode).embed(features, head.train(mode))
        pixels = found[site.key]
        assert found["regions"].shape == (2, CLASSES, head.channels)
        resized = F.interpolate(found["auxiliary"], pixels.shape[-2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(found["regions"], gather_regions(pixels, resized))
    assert (site.coarse is None) == (head.auxiliary is not None)
    want = site.coarse(pixels) if head.auxiliary is None else head.auxiliary(features)
    torch.testing.assert_close(found["auxiliary"], want)


def test_ocr_brings_its_own_attention() -> None:
    head = OCRHead(CHANNELS, STRIDES, CLASSES, width=16, key_width=8)
    site = context_site(head)
    assert isinstance(site, OCRSite)
    assert list(site.parameters()) == []
    embedding = {"pixels": torch.randn(1, 16, 4, 4), "regions": torch.randn(1, 3, 16), "auxiliary": torch.zeros(1)}
    pixels, context = torch.randn(1, 16, 4, 4), torch.randn(1, 16, 4, 4)
    joined = site.join(embedding, PixelContext(pixels, context=context), head)
    assert set(joined) == {"pixels", "context", "auxiliary"}
    assert joined["pixels"] is pixels


def test_maps_that_are_not_there_are_named() -> None:
    with pytest.raises(InputError, match="expected the map memory2 or pixels of Mask2FormerHead, came 'memory7'"):
        built(at="memory7")
    with pytest.raises(InputError, match="expected the map pixels of OCRHead, came 'memory2'"):
        built("ssltm", at="memory2")
    with pytest.raises(InputError, match="expected the map pixels of FCNHead, came 'x'"):
        built("fcn-ssltm", at="x")


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ON_ANY_HEAD)
def test_every_context_frame_counts_on_every_head(system: str) -> None:
    model, frames = built(system), clip()
    assert all(changed(model, frames, at) > 1e-5 for at in range(3)), system


def test_pixels_may_be_the_site_too() -> None:
    """Then masks alone learn from other frames; the maps that queries read stay the frame's own."""
    model, frames = built(at="pixels"), clip()
    assert all(changed(model, frames, at) > 1e-5 for at in range(3))
    with torch.no_grad():
        features = model.encode(frames[:, 3])
        embedding, _ = model.temporal(features, None, model.head)
    assert torch.equal(embedding["memory2"], features.embedding["memory2"])
    assert not torch.equal(embedding["pixels"], features.embedding["pixels"])


def test_every_part_counts_on_mask2former() -> None:
    frames = clip()
    whole, without_time, without_reference = built(), built(depth=0), built(context="query")
    assert changed(whole, frames, 0) > 1e-5 < changed(whole, frames, 2)
    assert changed(without_time, frames, 0) > 1e-5
    assert changed(without_time, frames, 2) == 0
    assert changed(without_reference, frames, 0) == 0
    assert changed(without_reference, frames, 1) > 1e-5
    nothing = built(depth=0, context="none", prototypes=0)
    assert changed(nothing, frames, 0) == changed(nothing, frames, 2) == 0
    with torch.no_grad():
        before = outputs(whole, frames)
        whole.temporal.prototypes.prototypes.mul_(-3)
        moved = (outputs(whole, frames) - before).abs().max()
    assert moved > 1e-6


def test_nothing_added_is_the_plain_head() -> None:
    """Without time, contexts and prototypes the model is Mask2Former, weight for weight."""
    model, plain = built(depth=0, context="none", prototypes=0), built("mask2former")
    plain.load_state_dict({n: x for n, x in model.state_dict().items() if not n.startswith("temporal.")})
    frames = clip()
    with torch.no_grad():
        want, _ = plain.step(frames[:, 3])
        got, _ = model.step(frames[:, 3])
    torch.testing.assert_close(got, want)


def test_an_untrained_site_leaves_the_pixels_nearly_as_they_were() -> None:
    head = HEADS["mask2former"](CHANNELS, STRIDES, CLASSES).eval()
    site = PixelSite(head).eval()
    with torch.no_grad():
        begun = site.embed(maps(), head)
        pixels = begun["memory2"]
        moved = site.join(begun, PixelContext(pixels, begun["regions"]), head)["memory2"] - pixels
    assert 0 < moved.square().mean().sqrt() < 0.2 * pixels.square().mean().sqrt()


def test_gradient_reaches_the_coarse_scores_through_the_regions() -> None:
    model, frames = built(), clip()
    prediction = model.train()(frames, ROLES)
    prediction.outputs["class_logits"].square().sum().backward()
    assert model.temporal.site.coarse[1].weight.grad.abs().sum() > 0
    assert model.temporal.site.gamma.grad.abs().min() > 0
    assert model.temporal.prototypes.prototypes.grad is None
