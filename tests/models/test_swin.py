"""Swin: exact parameter counts, timm as oracle where both agree, and attention written out cell by cell where not."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import Tensor

from everyframe.models.backbones.swin import MASKED, PatchMerging, SwinBlock, SwinTransformer
from everyframe.models.convert.timm import convert_backbone, merging_order
from everyframe.models.cost import count_parameters
from everyframe.models.ops.drop_path import DropPath
from everyframe.models.ops.window import (
    join_windows,
    relative_position_index,
    shifted_window_mask,
    split_windows,
)
from everyframe.models.state import load_state


@pytest.mark.parametrize(("output_norms", "parameters"), [(False, 48_835_722), (True, 48_835_722 + 2_880)])
def test_swin_small_has_the_published_number_of_parameters(output_norms: bool, parameters: int) -> None:
    with torch.device("meta"):
        model = SwinTransformer(depths=(2, 2, 18, 2), output_norms=output_norms)
    assert count_parameters(model) == parameters


def small(**options: object) -> SwinTransformer:
    return SwinTransformer(width=12, depths=(2, 2), heads=(2, 4), window=3, out_indices=(0, 1), **options)


def test_equals_timm_where_sizes_fit_the_windows() -> None:
    # Every map is larger than a window: timm stops shifting where it is not, mmseg shifts on.
    theirs = timm.models.swin_transformer.SwinTransformer(
        img_size=96, patch_size=4, embed_dim=12, depths=(2, 2, 2), num_heads=(2, 4, 4), window_size=3, num_classes=0
    ).eval()  # fmt: skip
    ours = SwinTransformer(width=12, depths=(2, 2, 2), heads=(2, 4, 4), window=3, out_indices=(0, 1, 2)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    load_state(ours, convert_backbone(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        *_, last = ours(x)
        want = theirs.norm(last.permute(0, 2, 3, 1))
        torch.testing.assert_close(want, theirs.forward_features(x), rtol=1e-4, atol=1e-4)


def test_merging_order_turns_neighbour_blocks_into_interleaved_channels() -> None:
    # 2 channels, columns named by (neighbour, channel); original order of neighbours: (0,0), (1,0), (0,1), (1,1)
    blocks = torch.tensor([[0, 1, 20, 21, 10, 11, 30, 31]])  # value = 10 * unfold position + channel
    assert merging_order(blocks).tolist() == [[0, 10, 20, 30, 1, 11, 21, 31]]


def test_merging_reads_neighbours_in_unfold_order() -> None:
    x = torch.arange(2 * 4 * 6, dtype=torch.float32).view(1, 2, 4, 6)
    merge = PatchMerging(2, 8, norm=False)
    with torch.no_grad():
        merge.reduction.weight.copy_(torch.eye(8))
        got = merge(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    want = torch.nn.functional.unfold(x, 2, stride=2).view(1, 8, 2, 3)
    assert torch.equal(got, want)


def attention_cell_by_cell(block: SwinBlock, x: Tensor) -> Tensor:
    """Shifted-window attention of one [H, W, C] map as a double loop over cells, from its definition.

    The map is filled up with zeros to whole windows; window borders lie `shift` cells further down and to the right,
    and wrap around; wrapped cells do not see each other, filled-up cells are seen.
    """
    attention, window, shift = block.attention, block.window, block.shift
    h, w, c = x.shape
    rows, columns = (math.ceil(side / window) * window for side in (h, w))
    filled = torch.zeros(rows, columns, c)
    filled[:h, :w] = x
    query, key, value = attention.qkv(filled).view(rows, columns, 3, attention.heads, -1).permute(2, 0, 1, 3, 4)

    def place(y: int, x: int) -> tuple[int, int, int, int, bool, bool]:
        """Window, position in the window, and whether the cell came around the border, after shifting."""
        v, u = (y - shift) % rows, (x - shift) % columns
        return v // window, u // window, v % window, u % window, y < shift, x < shift

    out = torch.zeros(h, w, c)
    cells = [(y, x) for y in range(rows) for x in range(columns)]
    for y, x in cells[: h * columns]:
        if x >= w:
            continue
        here = place(y, x)
        logits, values = [], []
        for v, u in cells:
            there = place(v, u)
            if there[:2] != here[:2]:
                continue
            row = (here[2] - there[2] + window - 1) * (2 * window - 1) + here[3] - there[3] + window - 1
            logit = (query[y, x] * key[v, u]).sum(-1) / math.sqrt(c / attention.heads)
            logit = logit + attention.relative_position_bias_table[row]
            logits.append(logit + (MASKED if shift and there[4:] != here[4:] else 0.0))
            values.append(value[v, u])
        weights = torch.stack(logits).softmax(0)
        out[y, x] = (weights[..., None] * torch.stack(values)).sum(0).flatten()
    return attention.projection(out)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(5, 7), (3, 3), (2, 1)])
def test_attention_at_sizes_that_do_not_fit_the_windows(size: tuple[int, int], shift: int) -> None:
    block = SwinBlock(8, heads=2, window=3, shift=shift)
    torch.nn.init.normal_(block.attention.relative_position_bias_table)
    torch.nn.init.normal_(block.attention.qkv.bias)
    x = torch.randn(2, *size, 8)
    padded = tuple(-(-side // 3) * 3 for side in size)
    allowed = shifted_window_mask(padded, 3, 1, x.device)
    mask = torch.zeros(allowed.shape).masked_fill_(~allowed, MASKED)
    with torch.no_grad():
        got = block.attend(x, mask)
        want = torch.stack([attention_cell_by_cell(block, one) for one in x])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_windows_come_back() -> None:
    x = torch.randn(2, 6, 9, 4)
    windows = split_windows(x[:, None], (3, 3))
    assert windows.shape == (2 * 6, 9, 4)
    assert torch.equal(windows[1, 4], x[0, 1, 4])  # second window of the first row, its middle cell
    assert torch.equal(join_windows(windows, (3, 3), (6, 9)), x)


def test_relative_position_index() -> None:
    index = relative_position_index(2)  # cells 00 01 10 11; offset (0, 0) is row 4 of 9
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_frame_sizes_and_memory_layout() -> None:
    model = small().eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 37, 22))
    assert [tuple(x.shape) for x in maps] == [(1, 12, 10, 6), (1, 24, 5, 3)]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)


def test_output_norms_have_mean_0_and_deviation_1() -> None:
    maps = small(output_norms=True)(torch.randn(1, 3, 24, 24))
    for x in maps:
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x.mean(1)), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std(1, unbiased=False), torch.ones_like(x.std(1)), atol=1e-2, rtol=0)


def test_absolute_positions_are_resized() -> None:
    model = small(positions=(4, 4)).eval()
    with torch.no_grad():
        model.absolute_positions.fill_(0.5)
        base = model.patch_embed(x := torch.randn(1, 3, 24, 20))
        torch.testing.assert_close(model.embed(x), base + 0.5)


def test_bfloat16_autocast_stays_close() -> None:
    model = small().eval()
    x = torch.randn(1, 3, 30, 30)
    with torch.no_grad():
        want = model(x)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x)[-1]
    assert (got.float() - want).abs().max() < 0.05 * want.abs().max()


def test_drop_path_leaves_samples_out_and_keeps_the_mean() -> None:
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    y = drop(x)
    assert set(y.unique().tolist()) == {0.0, x.new_tensor(1 / 0.75).item()}
    assert torch.equal(y.amin((1, 2)), y.amax((1, 2)))  # whole samples
    assert abs(y.mean().item() - 1) < 0.05
    assert drop.eval()(x) is x
    with pytest.raises(ValueError, match="at least 0 and below 1, came 1"):
        DropPath(1.0)
