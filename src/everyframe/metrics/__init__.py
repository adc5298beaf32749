"""Metrics: pure functions on arrays, and thin torchmetrics classes around them. Knows no files."""
