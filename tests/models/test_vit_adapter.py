"""BEiT's positions for any grid, plain ViT windows, the adapter: sizes of published models, odd frames, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everyframe.models.backbones.beit import Beit
from everyframe.models.backbones.vit_adapter import Extractor, ViTAdapter
from everyframe.models.backbones.window_vit import WindowVit
from everyframe.models.cost import count_parameters
from everyframe.models.heads.mask2former.head import Mask2FormerHead
from everyframe.models.ops.relative_position import relative_position_bias, resize_table, table_rows


def tiny_beit(**options: object) -> Beit:
    return Beit(**{"width": 16, "depth": 4, "heads": 2, "size": (64, 96), "layer_scale": 0.5, **options})


def tiny_adapter(trunk: object = None, **options: object) -> ViTAdapter:
    shape = {"groups": [(0, 0), (1, 1), (2, 2), (3, 3)], "inner": 4, "heads": 2, **options}
    return ViTAdapter(trunk or tiny_beit(), **shape)


def random_table(grid: tuple[int, int], heads: int = 2) -> Tensor:
    return torch.randn(table_rows(grid), heads, generator=torch.Generator().manual_seed(0))


def test_bias_of_every_pair_by_hand() -> None:
    h, w = 3, 4
    table = random_table((h, w))
    bias = relative_position_bias(table, (h, w), (h, w))
    assert bias.shape == (2, 13, 13)
    for i in range(h * w):
        for j in range(h * w):
            dy, dx = i // w - j // w, i % w - j % w
            row = (dy + h - 1) * (2 * w - 1) + dx + w - 1
            assert torch.equal(bias[:, 1 + i, 1 + j], table[row])
    assert torch.equal(bias[:, 0, 1:], table[-3][:, None].expand(-1, 12))  # class token looks at patches
    assert torch.equal(bias[:, 1:, 0], table[-2][:, None].expand(-1, 12))
    assert torch.equal(bias[:, 0, 0], table[-1])


def test_bias_of_a_smaller_grid_is_a_part_of_the_larger_one() -> None:
    table = random_table((5, 6))
    whole = relative_position_bias(table, (5, 6), (5, 6))
    part = relative_position_bias(table, (5, 6), (3, 4))
    cells = [0] + [1 + 6 * y + x for y in range(3) for x in range(4)]
    assert torch.equal(part, whole[:, cells][:, :, cells])


def grown_by_scipy(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The BEiT code's resizing written anew: geometric positions, then a bicubic spline."""
    from scipy.interpolate import RectBivariateSpline
    from scipy.optimize import brentq

    axes = []
    for a, b in zip(old, new, strict=True):
        q = brentq(lambda q: sum(q**i for i in range(a - 1)) - (b - 1), 1.0, 2.0)  # noqa: B023
        steps = [sum(q**i for i in range(n + 1)) for n in range(a - 1)]
        axes.append([-s for s in reversed(steps)] + [0.0, *steps])
    wanted = [range(1 - b, b) for b in new]
    maps = table[:-3].reshape(len(axes[0]), len(axes[1]), -1).double()
    grown = [torch.from_numpy(RectBivariateSpline(*axes, m.numpy(), kx=3, ky=3)(*wanted)) for m in maps.unbind(2)]
    return torch.cat([torch.stack(grown, -1).flatten(0, 1).float(), table[-3:]])


@pytest.mark.parametrize(("old", "new"), [((7, 7), (12, 12)), ((14, 14), (30, 30)), ((4, 6), (5, 8))])
def test_growing_tables_as_published(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = random_table(old)
    torch.testing.assert_close(resize_table(table, old, new), grown_by_scipy(table, old, new), rtol=1e-3, atol=1e-3)


def test_growing_is_near_timms_linear_form() -> None:
    """timm reads the same geometric positions, between them linearly."""
    from timm.layers import resize_rel_pos_bias_table

    y, x = torch.meshgrid(torch.arange(-13.0, 14), torch.arange(-13.0, 14), indexing="ij")
    table = torch.stack([(-(x**2 + y**2) / 20).exp(), (x / 3).sin() * (y / 4).cos()], -1).flatten(0, 1)
    table = torch.cat([table, torch.randn(3, 2)])
    want = resize_rel_pos_bias_table(table, (30, 30), (table_rows((30, 30)), 2))
    torch.testing.assert_close(resize_table(table, (14, 14), (30, 30)), want, rtol=0, atol=0.03)


def test_growing_by_a_tensor_keeps_gradients() -> None:
    table = random_table((2, 2)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: relative_position_bias(t, (2, 2), (3, 2)), table)


def test_absolute_positions_are_resized_and_the_class_tokens_is_unused() -> None:
    torch.manual_seed(0)
    model = tiny_beit(absolute_positions=True, relative_positions=False).eval()
    (small,) = model(torch.randn(1, 3, 40, 50))
    assert small.shape == (1, 16, 3, 4)
    model(torch.randn(1, 3, 64, 96))[0].sum().backward()
    assert model.pos_embed.grad[:, 0].abs().max() == 0
    assert model.pos_embed.grad[:, 1:].abs().max() > 0


def test_windows_of_the_whole_grid_are_global_attention() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 64)
    shape = {"width": 16, "depth": 2, "heads": 2, "size": (64, 64)}
    alone, windowed = WindowVit(**shape).eval(), WindowVit(**shape, windows=4).eval()
    windowed.load_state_dict(alone.state_dict())
    outputs = []
    for model in (alone, windowed):
        x, grid = model.embed(image)
        for block in model.blocks:
            x = block(x, grid)
        outputs.append(x)
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("trunk", ["beit", "window"])
def test_any_frame_size_and_gradients_everywhere(trunk: str) -> None:
    torch.manual_seed(0)
    part = tiny_beit() if trunk == "beit" else WindowVit(16, 4, 2, size=(64, 64), windows=[None, 2, None, 3])
    model = tiny_adapter(part, gamma=0.1, extra_extractors=1).train()
    for module in model.modules():
        if hasattr(module, "sampling_offsets"):
            torch.nn.init.normal_(module.sampling_offsets.weight, std=0.1)
            torch.nn.init.normal_(module.attention_weights.weight, std=0.1)
    maps = model(torch.randn(2, 3, 75, 90))
    assert [x.shape[1:] for x in maps] == [(16, 19, 23), (16, 10, 12), (16, 5, 6), (16, 3, 3)]
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    # The last class token is dropped: nothing of it but what other blocks read of the earlier ones counts.
    assert dead == []


def test_checkpointing_changes_nothing() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 96)
    gradients = []
    model = tiny_adapter(gamma=0.1).train()
    for checkpointed in (False, True):
        model.checkpointed = checkpointed
        model.zero_grad()
        sum(x.square().sum() for x in model(image)).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_gamma_zero_leaves_the_trunk_alone() -> None:
    torch.manual_seed(0)
    trunk = tiny_beit(out_indices=(0, 1, 2, 3)).eval()
    model = tiny_adapter(trunk, gamma=0.0).eval()
    image = torch.randn(1, 3, 64, 96)
    seen: list[Tensor] = []
    model.norms[2].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(image)
    model.add_trunk = False
    model(image)
    torch.testing.assert_close(seen[0] - seen[1], trunk(image)[2], rtol=1e-4, atol=1e-5)


def test_wrong_trunks_are_refused() -> None:
    with pytest.raises(ValueError, match="patches of 8 and 4 groups"):
        tiny_adapter(tiny_beit(patch=8))


@pytest.mark.parametrize(("side", "queries", "millions"), [(640, 100, 568), (896, 200, 571)])
def test_published_sizes(side: int, queries: int, millions: int) -> None:
    """BEiT(v2)-L with adapter and Mask2Former: table 4 of ViT-Adapter's README, ADE20K with 150 classes."""
    with torch.device("meta"):
        trunk = Beit(size=(side, side))
        body = ViTAdapter(trunk, inner=64, heads=16)
        head = Mask2FormerHead(
            body.channels, body.strides, 150, width=1024, queries=queries, heads=32, encoder_hidden=4096,
            decoder_hidden=4096,
        )  # fmt: skip
    assert round((count_parameters(body) + count_parameters(head)) / 1e6) == millions
    assert count_parameters(trunk) == pytest.approx({640: 305.5e6, 896: 307.9e6}[side], rel=1e-3)
    assert count_parameters(body) - count_parameters(trunk) == pytest.approx(23.2e6, rel=1e-2)


def test_extractor_without_perceptron() -> None:
    part = Extractor(16, 2, 4, 0.5, mlp_ratio=0)
    out = part(torch.randn(1, 21, 16), [(4, 4), (2, 2), (1, 1)], torch.randn(1, 4, 16), (2, 2))
    assert out.shape == (1, 21, 16)


def test_timms_beit_becomes_a_trunk_that_computes_the_same() -> None:
    import timm

    from everyframe.models.convert.vit_adapter import trunk_state

    torch.manual_seed(0)
    shape = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64, "init_values": 0.5}
    theirs: torch.nn.Module = timm.create_model("beitv2_base_patch16_224", **shape).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    ours = tiny_beit(width=32, depth=3, size=(64, 64)).eval()
    ours.load_state_dict(trunk_state(theirs.state_dict(), ours))
    image = torch.randn(1, 3, 64, 64)
    want = theirs.forward_intermediates(image, indices=[2], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(ours(image)[0], want, rtol=1e-4, atol=1e-4)
    larger = tiny_beit(width=32, depth=3, size=(96, 96))
    larger.load_state_dict(trunk_state(theirs.state_dict(), larger))
    table = theirs.state_dict()["blocks.1.attn.relative_position_bias_table"]
    assert torch.equal(larger.blocks[1].attention.relative_position_bias_table, resize_table(table, (4, 4), (6, 6)))


def test_timms_vit_becomes_a_windowed_trunk() -> None:
    import timm

    from everyframe.models.convert.vit_adapter import trunk_state

    theirs = timm.create_model("deit_tiny_patch16_224", embed_dim=32, depth=2, num_heads=2, img_size=64)
    ours = WindowVit(32, 2, 2, size=(64, 96), windows=2)
    state = trunk_state(theirs.state_dict(), ours)
    ours.load_state_dict(state)
    assert state["pos_embed"].shape == (1, 25, 32)
    assert torch.equal(ours.blocks[1].attention.qkv.bias, theirs.blocks[1].attn.qkv.bias)
