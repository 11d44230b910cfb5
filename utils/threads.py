"""How threads wait, said once before torch starts them.

OpenMP's threads spin for milliseconds between two parallel regions. On a machine that does anything else they take
the cores from the threads that work: a training step of LE-Mamba on two cores, beside one busy process, took more
than twenty times as long. A short spin keeps the full speed of a quiet machine (docs/training.md has the figures).
"""

from __future__ import annotations

import os

SPIN_COUNT = "1000"


def limit_spinning() -> None:
    """Let waiting threads sleep soon, unless the user has set how they wait. Call before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
