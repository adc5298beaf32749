"""Data: layouts, label budgets, clip sampling, augmentation, synthetic videos, the checker."""
