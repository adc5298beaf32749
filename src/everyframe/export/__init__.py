"""Saved models -> ONNX and `torch.export` files for other runtimes, their state as inputs and outputs."""
