"""Kernels: the only place where one is imported or compiled. Importing this compiles nothing."""

from model.ops.backends import available_backends
from model.ops.cross_scan import cross_selective_scan
from model.ops.selective_scan import selective_scan

__all__ = ["available_backends", "cross_selective_scan", "selective_scan"]
