"""Heads: maps -> per-frame embedding -> logits."""
