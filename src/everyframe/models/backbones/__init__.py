"""Backbones: `forward(x [N, 3, H, W]) -> list of maps [N, C, h, w]`, with `channels` and `strides`."""
