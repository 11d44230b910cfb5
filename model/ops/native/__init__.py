"""C kernels for CPUs, each `.py` next to its `.c`.

`build.py` compiles them at first use. `scan.py`: the scan backend `cpp` (scan_*.c, cross_*.c on tile.h).
`linear.py`, `depthwise.py`, `gate.py`: layers. `vector.h`: vectors in plain C; `common.h`: scratch memory and packing.
"""
