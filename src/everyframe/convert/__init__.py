"""Published checkpoints -> saved models."""
