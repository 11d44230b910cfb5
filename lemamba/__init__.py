"""LE-Mamba: image fusion with state-space models (arXiv 2404.09293).

`fuse`, `show`, `load` and `list_methods` are the front door for arrays, `run` for commands; `from_pretrained`,
`save_pretrained` and `push_to_hub` share networks. `import lemamba` loads no torch.

In a clone, the folders of the repository (`model/`, `datasets/`, …) are the subpackages of this package: the root of
the repository is on its ``__path__``. In an installed wheel they lie in this folder (docs/architecture.md).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"
_FRONT_DOOR = {
    **dict.fromkeys(("fuse", "list_methods", "load", "show"), "lemamba.commands.api"),
    **dict.fromkeys(("from_pretrained", "push_to_hub", "save_pretrained"), "lemamba.commands.hub"),
    "run": "lemamba.commands",
}
__all__ = ["from_pretrained", "fuse", "list_methods", "load", "push_to_hub", "run", "save_pretrained", "show"]

_HERE = Path(__file__).resolve().parent
if not (_HERE / "model").is_dir():
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> Any:
    """Import the functions of the front door, and with them (but for `run`) torch, on first use."""
    if name in _FRONT_DOOR:
        return getattr(import_module(_FRONT_DOOR[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
