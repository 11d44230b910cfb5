"""The Hugging Face hub: fetch a folder of weights, and upload one. Needs huggingface_hub, imported where it is used."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from lemamba.utils.errors import UserError, one_line

_PATTERNS = ["*.safetensors", "*.json", "README.md"]  # no pickles: these could run code
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def _check(name: str) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError("the hub needs the package huggingface_hub, not installed; run: pip install huggingface_hub")
    if not _NAME.fullmatch(name):
        raise UserError(f"expected a model's name USER/NAME on the hub, given {name!r}; correct it")


@cache  # a command asks several times for one file
def download(name: str) -> Path:
    """Fetch the weights, their .json and the card of a model, or take them from the hub's cache on the disk.

    Args:
        name: ``USER/NAME``, or ``USER/NAME@REVISION`` for a branch, tag or commit.

    Returns:
        The folder.

    Raises:
        UserError: no package, no such model, no access or no network.
    """
    repository, _, revision = name.partition("@")
    _check(repository)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, OSError, ValueError) as error:  # a missing network, offline mode, an unknown revision
        reason = one_line(str(error))[:300]
        raise UserError(
            f"cannot fetch {name} from the hub: {reason}; check its name, your access and the network"
        ) from None


def upload(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Upload a folder of weights as a model, creating it if it does not exist; return its address.

    Args:
        folder: what to upload.
        name: ``USER/NAME``.
        private: of a model that is created.
        message: of the commit.

    Raises:
        UserError: no package, no login, no access or no network.
    """
    _check(name)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = one_line(str(error))[:300]
        raise UserError(f"cannot upload to {name}: {reason}; log in with hf auth login and check the name") from None
    return str(address)
