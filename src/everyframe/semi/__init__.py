"""Semi-supervised training: teacher, pseudo-labels, iterative self-training."""
