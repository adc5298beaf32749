"""Models: backbones, heads, temporal modules, and the `Segmenter` that joins them."""
