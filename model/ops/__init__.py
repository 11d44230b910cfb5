"""Kernels: the only folder that imports or compiles one. Importing it compiles nothing.

`scan/` has the selective scan and its form for images, their definition and the choice of a backend; `native/` the C
kernels for CPUs (scan, linear layers, depth-wise convolutions, gates), `triton/` the Triton kernels for GPUs.
`registration.py` makes torch operators of them; `causal_conv.py` is the convolution before a one-dimensional scan.
"""

from lemamba.model.ops.scan.backends import available_backends
from lemamba.model.ops.scan.cross import cross_selective_scan
from lemamba.model.ops.scan.selective import selective_scan

__all__ = ["available_backends", "cross_selective_scan", "selective_scan"]
