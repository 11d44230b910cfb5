"""Layers that several networks use: convolutions, linear layers, Mamba, SS2D, windows, drop path, residual blocks."""
