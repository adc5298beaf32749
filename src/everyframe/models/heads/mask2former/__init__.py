"""Mask2Former: pixel decoder, transformer decoder, and the head that joins them."""
