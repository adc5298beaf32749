"""Losses: `(logits, target, ...) -> scalar`; ignored pixels give no gradient, an all-ignored batch gives 0."""
