"""Kernels: the only place where one is imported or compiled. Importing this compiles nothing."""

from lemamba.model.ops.scan.backends import available_backends
from lemamba.model.ops.scan.cross import cross_selective_scan
from lemamba.model.ops.scan.selective import selective_scan

__all__ = ["available_backends", "cross_selective_scan", "selective_scan"]
