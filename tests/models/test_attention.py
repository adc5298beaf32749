"""Attention with a bias that learns equals torch's, whose gradients it shares."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from everyframe.models.ops.attention import biased_attention


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("rows", [1, 6])
def test_equals_torch_with_gradients(rows: int, scale: float | None) -> None:
    torch.manual_seed(0)
    given = [torch.randn(6, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 7, 7)]
    bias = torch.randn(rows, 2, 5, 7, dtype=torch.float64)
    bias[:, 0, 1, 2:] = float("-inf")
    given.append(bias.requires_grad_())
    got = biased_attention(*given, scale)
    want = F.scaled_dot_product_attention(*given, scale=scale)
    torch.testing.assert_close(got, want)
    upstream = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, given, upstream), torch.autograd.grad(want, given, upstream), strict=True):
        torch.testing.assert_close(a, b)


def test_half_types_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 300, 8) for _ in range(3))
    bias = torch.randn(1, 2, 300, 300, requires_grad=True)
    rounded = [x.bfloat16() for x in (query, key, value)]
    with torch.autocast("cpu", torch.bfloat16):
        got = biased_attention(*rounded, bias)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, biased_attention(*(x.float() for x in rounded), bias).bfloat16(), rtol=0, atol=0)


def test_without_a_bias_nothing_is_added() -> None:
    query, key, value = (torch.randn(1, 2, 3, 4) for _ in range(3))
    torch.testing.assert_close(
        biased_attention(query, key, value, None), F.scaled_dot_product_attention(query, key, value)
    )
