"""The deformable attention op: a scalar loop and `grid_sample` as oracles, gradients, compile, export, half types."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.models.ops.deform_attn import (
    DeformableAttention,
    cell_centres,
    join_levels,
    ms_deform_attn,
    split_levels,
)

SHAPES = [(3, 5), (4, 2), (1, 1)]


def inputs(
    shapes: list[tuple[int, int]] = SHAPES, b: int = 2, q: int = 4, heads: int = 3, c: int = 2, points: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Random float64 value, locations (a third of them outside the maps) and weights."""
    torch.manual_seed(0)
    value = torch.randn(b, sum(h * w for h, w in shapes), heads, c, dtype=torch.float64)
    locations = torch.rand(b, q, heads, len(shapes), points, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.randn(b, q, heads, len(shapes), points, dtype=torch.float64)
    return value, locations, weights


def by_hand(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The sum of the definition, one number after the other."""
    b, _, heads, c = value.shape
    out = torch.zeros(b, locations.shape[1], heads, c, dtype=value.dtype)
    for at in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        n, q, head, level, _ = at
        height, width = shapes[level]
        first = sum(h * w for h, w in shapes[:level])
        x, y = (locations[tuple(at)] * torch.tensor([width, height]) - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                    out[n, q, head] += weights[tuple(at)] * share * value[n, first + row * width + column, head]
    return out.flatten(2)


def by_grid_sample(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    b, _, heads, c = value.shape
    out = value.new_zeros(b, locations.shape[1], heads, c)
    for level, table in enumerate(value.split([h * w for h, w in shapes], 1)):
        image = table.permute(0, 2, 3, 1).reshape(b * heads, c, *shapes[level])
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # [B h, Q, P, 2]
        samples = F.grid_sample(image, grid, align_corners=False).unflatten(0, (b, heads))  # [B, h, c, Q, P]
        out += torch.einsum("nhcqp,nqhp->nqhc", samples, weights[:, :, :, level])
    return out.flatten(2)


def test_equals_a_scalar_loop() -> None:
    value, locations, weights = inputs()
    want = by_hand(value, SHAPES, locations, weights)
    torch.testing.assert_close(ms_deform_attn(value, SHAPES, locations, weights), want, rtol=1e-12, atol=1e-12)


def test_equals_grid_sample_with_gradients() -> None:
    given = [x.requires_grad_() for x in inputs([(9, 13), (5, 7)], b=2, q=31, heads=4, c=8, points=4)]
    shapes = [(9, 13), (5, 7)]
    got, want = ms_deform_attn(given[0], shapes, *given[1:]), by_grid_sample(given[0], shapes, *given[1:])
    torch.testing.assert_close(got, want)
    upstream = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, given, upstream), torch.autograd.grad(want, given, upstream), strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck() -> None:
    given = [x.requires_grad_() for x in inputs(q=2, heads=2)]
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, SHAPES, x, w), given)


def test_the_op_keeps_its_promises_to_torch() -> None:
    value, locations, weights = (x.float().requires_grad_() for x in inputs())
    torch.library.opcheck(torch.ops.everyframe.ms_deform_attn, (value, [3, 5, 4, 2, 1, 1], locations, weights))


def test_a_cell_centre_reads_that_cell_and_half_a_cell_beyond_the_edge_reads_half() -> None:
    value = torch.arange(6.0).view(1, 6, 1, 1)
    centres = cell_centres([(2, 3)])
    locations = centres.view(1, 6, 1, 1, 1, 2)
    assert ms_deform_attn(value, [(2, 3)], locations, torch.ones(1, 6, 1, 1, 1)).flatten().tolist() == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip
    edge = torch.tensor([0.0, 0.75]).view(1, 1, 1, 1, 1, 2)  # the left edge of the second row
    assert ms_deform_attn(value, [(2, 3)], edge, torch.ones(1, 1, 1, 1, 1)).item() == 1.5


def test_half_precision_values_are_summed_in_float32() -> None:
    value, locations, weights = (x.float() for x in inputs([(40, 50)], c=8, points=8))
    want = ms_deform_attn(value.bfloat16().float(), [(40, 50)], locations, weights)
    got = ms_deform_attn(value.bfloat16(), [(40, 50)], locations, weights)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want.bfloat16())


def test_a_point_at_nan_gives_nan_and_no_crash() -> None:
    value, locations, weights = inputs(b=1)
    locations[0, 1, 0, 0, 0, 0] = torch.nan
    locations[0, 2, 0, 0, 0, 0] = 1e30
    out = ms_deform_attn(value, SHAPES, locations, weights)
    assert out[0, 1, :2].isnan().all()
    assert out[0, [0, 2, 3]].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, x, w: (v[:, 1:], x, w), "have 24 cells, value has 23"),
        (lambda v, x, w: (v, x[:, :, :, :2], w), r"expected locations \[B, Q, h, 3, P, 2\]"),
        (lambda v, x, w: (v, x.bfloat16(), w), "expected float32 or float64 locations"),
    ],
)
def test_wrong_shapes_are_named(change: object, message: str) -> None:
    value, locations, weights = change(*inputs())
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(value, SHAPES, locations, weights)


def test_module_compiles_and_exports() -> None:
    torch.manual_seed(0)
    shapes = [(4, 6), (2, 3)]
    module = DeformableAttention(16, heads=2, levels=2, points=3, ratio=0.5)
    torch.nn.init.normal_(module.sampling_offsets.weight)

    def run(query: Tensor, value: Tensor) -> Tensor:
        return module(query, cell_centres(shapes), value, shapes)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, query: Tensor, value: Tensor) -> Tensor:
            return self.inner(query, cell_centres(shapes), value, shapes)

    query, value = torch.randn(2, 30, 16), torch.randn(2, 30, 16)
    want = run(query, value)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(query, value), want)
    exported = torch.export.export(Wrapped(), (query, value))
    torch.testing.assert_close(exported.module()(query, value), want)
    gradients = []
    for function in (run, compiled):
        module.zero_grad()
        function(query, value).square().sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    torch.testing.assert_close(*gradients)


def test_module_stays_right_under_autocast() -> None:
    torch.manual_seed(0)
    module = DeformableAttention(32, heads=4, levels=1)
    query, value = torch.randn(1, 600, 32), torch.randn(1, 20 * 30, 32)
    want = module(query, cell_centres([(20, 30)]), value, [(20, 30)])
    with torch.autocast("cpu", torch.bfloat16):
        got = module(query, cell_centres([(20, 30)]), value, [(20, 30)])
    assert got.dtype == torch.bfloat16
    assert (got - want).abs().max() < 0.02 * want.abs().max()


def test_published_start_of_the_offsets() -> None:
    """Head 1 of 4 looks down (angle 90 degrees), its points 1 and 2 cells away."""
    module = DeformableAttention(8, heads=4, levels=2, points=2)
    bias = module.sampling_offsets.bias.view(4, 2, 2, 2)
    torch.testing.assert_close(bias[1], torch.tensor([[[0.0, 1], [0, 2]]] * 2))
    assert bias[0, 0].tolist() == [[1, 0], [2, 0]]


def test_levels_split_and_join() -> None:
    maps = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 1)]
    tokens = join_levels(maps)
    assert tokens.shape == (2, 22, 3)
    assert all(torch.equal(a, b) for a, b in zip(split_levels(tokens, [(4, 5), (2, 1)]), maps, strict=True))


# -- the Triton kernels ------------------------------------------------------------------------------------------------

COMPARE = """
import torch
from everyframe.models.ops import deform_attn_plain as plain, deform_attn_triton as kernels
torch.manual_seed(0)
device = {device!r}
# Two maps, rows that fill no block, channels that are no power of 2; DCNv3's one map and nine points; a single cell.
cases = [([5, 7, 3, 2], 2, 7, 3, 6, 2), ([4, 5], 1, 15, 2, 4, 9), ([1, 1], 1, 1, 1, 1, 1)]
for sides, b, q, heads, c, points in cases:
    levels = len(sides) // 2
    cells = sum(h * w for h, w in zip(sides[::2], sides[1::2]))
    value = torch.randn(b, cells, heads, c)
    locations = torch.rand(b, q, heads, levels, points, 2) * 1.6 - 0.3
    locations[0, 0, 0, 0, 0] = 1e30  # far outside along both axes
    weights = torch.randn(b, q, heads, levels, points)
    upstream = torch.randn(b, q, heads * c)
    for dtype, rtol, atol in ((torch.float32, 1e-4, 1e-5), (torch.bfloat16, 0.02, 0.02)):
        given = [value.to(dtype), sides, locations, weights]
        there = [value.to(dtype).to(device), sides, locations.to(device), weights.to(device)]
        got, want = kernels.forward(*there), plain.forward(*given)
        assert got.dtype == want.dtype == dtype
        torch.testing.assert_close(got.cpu(), want, rtol=rtol, atol=atol)
        found = kernels.backward(upstream.to(dtype).to(device), *there)
        for a, e in zip(found, plain.backward(upstream.to(dtype), *given), strict=True):
            assert a.dtype == e.dtype
            torch.testing.assert_close(a.cpu(), e, rtol=rtol, atol=atol)
    locations[0, 0, 0, 0, 0, 0] = torch.nan
    got = kernels.forward(value.to(device), sides, locations.to(device), weights.to(device)).cpu()
    assert torch.equal(got.isnan(), plain.forward(value, sides, locations, weights).isnan())
    assert got.isnan().any()
"""


def test_triton_kernels_equal_the_plain_form_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", COMPARE.format(device="cpu")], check=True, env=environment)


SIZES = {"LEVELS": 3, "POINTS": 4, "LANES": 32, "ROWS": 16}
FLOATS = {"locations", "weights", "of_value", "of_locations", "of_weights"}


@pytest.mark.parametrize(("kernel", "values"), [("_forward_kernel", "bf16"), ("_backward_kernel", "fp32")])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(
    kernel: str, values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter runs Python that the compiler refuses."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from everyframe.models.ops import deform_attn_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(deform_attn_triton, kernel)
    kinds = {"value": f"*{values}", "out": f"*{values}", "gradient": f"*{values}", "maps": "*i32"}
    kinds |= dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(SIZES, "constexpr")
    source = triton.compiler.ASTSource(
        fn=function,
        signature={name: kinds.get(name, "i32") for name in function.arg_names},
        constexprs={(function.arg_names.index(name),): size for name, size in SIZES.items()},
    )
    assert ".visible .entry" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_triton_kernels_equal_the_plain_form_on_cuda() -> None:
    pytest.importorskip("triton")
    subprocess.run([sys.executable, "-c", COMPARE.format(device="cuda")], check=True)
