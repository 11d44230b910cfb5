"""Triton kernels of the scan for GPUs.

`scan.py`: the scan backend `triton`. `launch.py` runs the kernels of `forward.py` and `backward.py`, which share
`parts.py`; `plan.py` chooses tiles and chunks for a shape, `tune.py` measures and remembers the choice.
"""
