"""Entry points for `torch.hub`; see `lemamba.fuse` and `lemamba.load` for their arguments.

net = torch.hub.load(REPOSITORY, "lemamba", weights="best.safetensors")
sr = torch.hub.load(REPOSITORY, "fuse", ms, pan, "GSA", sensor="WV3")
"""

from lemamba.commands.api import fuse, list_methods
from lemamba.commands.api import load as lemamba

dependencies = ["torch", "numpy", "scipy", "h5py", "safetensors", "yaml", "rich", "matplotlib", "einops"]

__all__ = ["dependencies", "fuse", "lemamba", "list_methods"]
