"""Triton kernels of the scan (GPU)."""
