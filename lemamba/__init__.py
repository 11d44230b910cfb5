"""LE-Mamba: image fusion with state-space models (arXiv 2404.09293).

`import lemamba` loads no torch. In a clone, the folders of the repository (`model/`, `datasets/`, …) are the
subpackages of this one: the repository's root stands on ``__path__``. In an installed wheel they lie inside this
folder (docs/architecture.md).
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.2.0"

_HERE = Path(__file__).resolve().parent
if not (_HERE / "model").is_dir():
    __path__.append(str(_HERE.parent))
