"""From a map to cells with a vector each: the first layer of transformers, and what some have between their stages."""

from __future__ import annotations

from torch import Tensor, nn

from everyframe.models.ops.padding import pad_frame


class PatchEmbed(nn.Module):
    """Cut a map into patches and give each one a vector. Right and bottom are padded with zeros where needed.

    Args:
        channels: of the vectors.
        patch: side of the patches.
        in_channels: channels of the map.
        norm: whether a LayerNorm follows.
        kernel: side of what each vector sees; larger than the patch it overlaps. None: the patch.
        padding: with zeros on all sides before.
    """

    def __init__(
        self,
        channels: int,
        patch: int = 4,
        in_channels: int = 3,
        norm: bool = True,
        kernel: int | None = None,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Conv2d(in_channels, channels, kernel or patch, patch, padding)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, ceil(H / patch), ceil(W / patch), C']."""
        return self.norm(self.projection(pad_frame(x, self.patch)).permute(0, 2, 3, 1))
