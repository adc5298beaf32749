"""What backbones of several stages have in common: a stage, running them, their maps, how stochastic depth rises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn


class Stage(nn.Module):
    """Blocks at one resolution, and what makes the next stage's input of their map.

    Args:
        blocks: in order, each [N, H, W, C] -> [N, H, W, C].
        downsample: [N, H, W, C] -> [N, h, w, C']; the last stage has none.
    """

    def __init__(self, blocks: Iterable[nn.Module], downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H, W, C] -> (the stage's map [N, H, W, C], the next stage's input)."""
        x = self.run(x)
        return x, x if self.downsample is None else self.downsample(x)

    def run(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]: the blocks one after the other."""
        for block in self.blocks:
            x = block(x)
        return x


def run_stages(
    stages: Iterable[nn.Module], x: Tensor, out_indices: Sequence[int], norms: Iterable[nn.Module] | None = None
) -> list[Tensor]:
    """Run stages one after the other and return the maps of some of them.

    Args:
        stages: see `Stage`.
        x: input of the first one, [N, H, W, C].
        out_indices: stages whose maps are returned.
        norms: one for each of them, for its map alone.

    Returns:
        One [N, C, h, w] per stage of `out_indices`, in channels_last memory, as computed.
    """
    after = dict(zip(out_indices, norms, strict=True)) if norms is not None else {}
    maps = []
    for i, stage in enumerate(stages):
        out, x = stage(x)
        if i in out_indices:
            maps.append((after[i](out) if i in after else out).permute(0, 3, 1, 2))
    return maps


def pyramid_shape(width: int, out_indices: Sequence[int], patch: int = 4) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return channels and strides of the maps of some stages, where each stage doubles those of the one before.

    Args:
        width: channels of the first stage.
        out_indices: the stages.
        patch: stride of the first stage.
    """
    return tuple(width << i for i in out_indices), tuple(patch << i for i in out_indices)


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the probability with which each block of each stage leaves its branches out in training (see `DropPath`).

    Args:
        last: of the last block; from 0 at the first it rises evenly.
        depths: blocks of each stage.
    """
    total = sum(depths)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [last * (start + j) / max(total - 1, 1) for j in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]
