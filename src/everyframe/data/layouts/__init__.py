"""Layouts: one file each, `(root, split) -> (videos, label space)`."""
