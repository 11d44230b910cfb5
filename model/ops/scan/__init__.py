"""The selective scan.

`selective.py`: the scan of sequences. `cross.py`: the scan of an image in four directions. `backends.py`: which backend
serves a call. `interface.py`: what a backend receives and declares. Backends in this folder: `reference.py` (the
definition), `torch_backend.py`, `mamba_ssm_backend.py`; the others are `native/scan.py` and `triton/scan.py`.
"""
