"""Inference: `Stream` and predictors that nest (window, flip, scales)."""
