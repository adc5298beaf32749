"""The Mask2Former head: savings that change nothing, masked attention's rules, memory, positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.models.heads.mask2former.head import Mask2FormerHead, semantic_scores
from everyframe.models.heads.mask2former.presets import SIZES, mask2former
from everyframe.models.heads.mask2former.transformer_decoder import Attention, mask_logits, shrink, visible_cells
from everyframe.models.ops.position import sine_positions

CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)


def head(**options: object) -> Mask2FormerHead:
    torch.manual_seed(0)
    shape = {"width": 32, "queries": 7, "heads": 4, "encoder_layers": 1, "encoder_hidden": 40, "decoder_layers": 4}
    return Mask2FormerHead(CHANNELS, STRIDES, 5, **{**shape, "decoder_hidden": 48, **options})


def maps(height: int = 64, width: int = 96, batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def test_resized_pixels_make_resized_masks() -> None:
    queries, pixels = torch.randn(2, 7, 16, dtype=torch.float64), torch.randn(2, 16, 13, 17, dtype=torch.float64)
    whole = mask_logits(queries, pixels)
    for size in ((4, 5), (7, 9), (26, 34)):
        (small,) = shrink(pixels, [size])
        want = F.interpolate(whole, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close((queries @ small).unflatten(2, size), want, rtol=1e-13, atol=1e-13)


def test_no_mask_is_made_at_full_size_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = head().eval()
    with torch.no_grad():
        outputs = model.predict(model.embed(maps()))
    assert {name: list(x.shape) for name, x in outputs.items()} == {
        "class_logits": [2, 1, 7, 6],
        "mask_embeddings": [2, 1, 7, 32],
        "pixels": [2, 32, 16, 24],
    }
    assert model.semantic(outputs).shape == (2, 5, 16, 24)


def test_training_returns_all_predictions_and_evaluation_the_last_of_them() -> None:
    model, features = head(), maps()
    embedding = model.embed(features)
    trained = model.train().predict(embedding)
    with torch.no_grad():
        last = model.eval().predict(embedding)
    assert trained["class_logits"].shape == (2, 5, 7, 6)
    torch.testing.assert_close(trained["class_logits"][:, -1:], last["class_logits"])
    torch.testing.assert_close(trained["mask_embeddings"][:, -1:], last["mask_embeddings"])


def test_a_query_sees_its_mask_or_everything() -> None:
    masks = torch.tensor([[[1.0, -1.0, 0.0], [-1.0, -2.0, -3.0]]])
    assert visible_cells(masks).tolist() == [[[True, False, True], [True, True, True]]]


def test_attention_equals_torchs_module() -> None:
    torch.manual_seed(0)
    ours = Attention(16, 4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {"in_proj_weight": ours.qkv.weight, "in_proj_bias": torch.randn(48), "out_proj.weight": ours.output.weight,
         "out_proj.bias": ours.output.bias}
    )  # fmt: skip
    ours.qkv.bias.data = theirs.in_proj_bias.data
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    allowed = torch.rand(2, 5, 9) > 0.4
    allowed |= ~allowed.any(-1, keepdim=True)
    want, _ = theirs(query, key, value, attn_mask=~allowed.repeat_interleave(4, 0))
    torch.testing.assert_close(ours(query, key, value, allowed), want)


def test_scores_by_hand() -> None:
    """Two queries: one sure of class 0 on the left, one sure of nothing."""
    logits = torch.tensor([[[30.0, 0.0, 0.0], [0.0, 0.0, 30.0]]])
    masks = torch.tensor([[[[0.0, -30.0]], [[30.0, 30.0]]]])
    torch.testing.assert_close(semantic_scores(logits, masks), torch.tensor([[[[0.5, 0.0]], [[0.0, 0.0]]]]))
    larger = semantic_scores(logits, masks, (1, 4))
    torch.testing.assert_close(larger[0, 0, 0], torch.tensor([0.0, -7.5, -22.5, -30.0]).sigmoid())


def test_scores_are_float32_under_autocast() -> None:
    """In bfloat16 a twentieth of these cells would have two best classes."""
    logits, masks = torch.randn(1, 100, 125), torch.randn(1, 100, 30, 30)
    with torch.autocast("cpu", torch.bfloat16):
        got = semantic_scores(logits, masks)
    assert torch.equal(got, semantic_scores(logits, masks))
    assert ((got == got.amax(1, keepdim=True)).sum(1) == 1).all()


def test_enlarging_first() -> None:
    model = head(upsample_first=True).eval()
    with torch.no_grad():
        outputs = model.predict(model.embed(maps()))
        scores = model.semantic(outputs)
    masks = mask_logits(outputs["mask_embeddings"][:, -1], outputs["pixels"])
    masks = F.interpolate(masks, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(scores, semantic_scores(outputs["class_logits"][:, -1], masks))


def test_positions_as_detr_has_them() -> None:
    """Channel 2i of y: sin(y / 10000^(2i / (D / 2))), y = (row + 1) / (H + eps) * 2 pi."""
    table = sine_positions((3, 5), 16)
    y, x = 2 / (3 + 1e-6) * 2 * torch.pi, 5 / (5 + 1e-6) * 2 * torch.pi
    for i in range(4):
        phase = torch.tensor([y, x], dtype=torch.float64) / 10_000 ** (2 * i / 8)
        want = torch.cat([phase.sin()[:1], phase.cos()[:1], phase.sin()[1:], phase.cos()[1:]]).float()
        torch.testing.assert_close(table[1 * 5 + 4, [2 * i, 2 * i + 1, 8 + 2 * i, 9 + 2 * i]], want, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="divides by 4"):
        sine_positions((3, 5), 6)


def test_checkpointing_changes_nothing() -> None:
    features, gradients = maps(), []
    for checkpointed in (False, True):
        model = head(checkpointed=checkpointed).train()
        outputs = model.predict(model.embed(features))
        sum(x.square().mean() for x in outputs.values()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("channels", "width"),
    [((1024,) * 4, 1024), ((1408,) * 4, 1024), ((192, 384, 768, 1536), 256), ((16, 32, 64, 128), 64), ((8,) * 4, 64)],
)
def test_size_follows_the_backbone(channels: tuple[int, ...], width: int) -> None:
    with torch.device("meta"):
        model = mask2former(channels, STRIDES, 5)
    assert model.channels == width
    assert model.layers[0].self_attention.heads == SIZES[width]["heads"]


def test_one_map_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least 2 maps, came 1"):
        Mask2FormerHead((8,), (16,), 5, width=32, heads=4)
