"""Converters: published checkpoints' key layouts -> ours."""
