"""Inference: `Stream`, exact label maps, and predictors that nest (window, flip, scales)."""
