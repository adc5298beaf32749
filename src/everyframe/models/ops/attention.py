"""Attention with a bias, and plain transformer blocks on token sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.drop_path import DropPath
from everyframe.models.ops.precision import without_autocast


def biased_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float | None = None
) -> Tensor:
    """Return softmax(scale * query key^T + bias) value, as `scaled_dot_product_attention` does with a float mask.

    No fused kernel of torch's on a CPU gives the gradient of a bias. What it does instead copies the logits several
    times over and looks for rows that see nothing; here they are written once and changed in place.

    Args:
        query: [N, heads, Q, d].
        key: [N, heads, M, d].
        value: [N, heads, M, d].
        bias: float, broadcast to [N, heads, Q, M]; each row has a finite value. None adds nothing.
        scale: of the logits; None is 1 / sqrt(d).

    Returns:
        [N, heads, Q, d].
    """
    if bias is None or not (torch.is_grad_enabled() and bias.requires_grad) or query.device.type != "cpu":
        mask = None if bias is None else bias.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    kind = torch.promote_types(query.dtype, torch.float32)  # of the sums, as torch's own
    with without_autocast(query):
        logits = (query.to(kind) * scale) @ key.to(kind).mT
        return (logits.add_(bias).softmax(-1) @ value.to(kind)).to(query.dtype)


def check_heads(kind: str, width: int, heads: int) -> None:
    """Check that attention heads share the channels evenly.

    Args:
        kind: of the attention, named in the message.
        width: channels.
        heads: number of heads.

    Raises:
        ValueError: they do not.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"{kind}: expected a width that divides by {heads} heads, came {width}")


class JointAttention(nn.Module):
    """Multi-head self attention with joint projections; what `forward` is told is up to the class.

    Args:
        width: channels D of the tokens.
        heads: number of heads; D must divide by it.
        bias: whether the joint projection adds one.
    """

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        check_heads("SelfAttention", width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width)

    def attend(self, x: Tensor) -> Tensor:
        """Let each token look at all: [N, M, D] -> [N, M, D]."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each N heads M d
        return self.output(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class SelfAttention(JointAttention):
    """`JointAttention` of each token to all."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, M, D] -> [N, M, D]."""
        return self.attend(x)


class TransformerBlock(nn.Module):
    """Pre-norm block: tokens + attention, then tokens + MLP (Dosovitskiy et al., ICLR 2021).

    Args:
        width: channels D of the tokens.
        heads: number of attention heads.
        mlp_width: hidden channels of the MLP.
        bias: see `SelfAttention`.
        eps: of the layer norms.
        dropout: in the MLP and after the attention, in training.
        drop_path: probability of leaving a residual branch out in training, per sample.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        bias: bool = True,
        eps: float = 1e-5,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width, heads, bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp_width, width)
        )
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[N, M, D] -> [N, M, D]."""
        x = x + self.drop_path(self.dropout(self.attention(self.norm1(x))))
        return x + self.drop_path(self.dropout(self.mlp(self.norm2(x))))
