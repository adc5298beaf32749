"""Operations shared by backbones and heads, in plain PyTorch."""
