"""Share trained networks: `lemamba.from_pretrained`, `lemamba.save_pretrained`, `lemamba.push_to_hub`.

A folder holds ``model.safetensors``, its .json and the model card that training writes, README.md. The same folder is
read from the disk and from the Hugging Face hub; every ``--weights`` takes it too, as FOLDER or ``hf:USER/NAME``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor, nn

from lemamba.commands.api import load
from lemamba.engine.weights.files import HUB_PREFIX, open_weights, save_weights
from lemamba.engine.weights.hub import upload
from lemamba.utils.atomic import renamed, write_text
from lemamba.utils.errors import UserError

FILE = "model.safetensors"
_PICTURES = {".png", ".jpg", ".jpeg"}


def from_pretrained(name: str | Path, *, revision: str | None = None, device: str | None = None) -> nn.Module:
    """Load a network from a folder of `save_pretrained` or from the Hugging Face hub, ready to call.

    Args:
        name: a folder, or ``USER/NAME`` on the hub. A folder that exists comes first.
        revision: branch, tag or commit on the hub.
        device: "cpu", "cuda", …; None = a GPU if there is one.

    Returns:
        As `lemamba.load`.

    Raises:
        lemamba.utils.errors.UserError: neither a folder nor a model that can be fetched, or damaged weights.
    """
    if Path(name).exists():
        if revision is not None:
            raise UserError(f"expected no revision for the folder {name}, given {revision}; drop it")
        return load(name, device=device)
    return load(f"{HUB_PREFIX}{name}" + (f"@{revision}" if revision else ""), device=device)


def save_pretrained(
    network: nn.Module | str | Path,
    folder: str | Path,
    *,
    meta: dict[str, Any] | None = None,
    pictures: Sequence[str | Path] = (),
) -> Path:
    """Write weights, their description and a model card to a folder.

    Args:
        network: from `lemamba.load` or `from_pretrained`, perhaps trained further; or weights as `lemamba.load` takes
            them, e.g. a run's folder.
        folder: is created; files of these names in it are replaced.
        meta: description of a network from elsewhere: {"model": {"name", "args"}, "data": {"sensor", "divisor", …}}.
        pictures: PNG or JPEG files that the card shows, e.g. of ``--rgb_png``, each under its name without the suffix.

    Returns:
        The weight file.

    Raises:
        lemamba.utils.errors.UserError: a network without a description, or no such picture.
    """
    state, known = _content(network)
    meta = meta or known
    if not meta.get("model", {}).get("name"):
        raise UserError(
            'expected a network that names itself, given one without a description; give meta={"model": {"name": …, '
            '"args": {…}}, "data": {…}}'
        )
    shown = [Path(picture) for picture in pictures]
    for picture in shown:
        if picture.suffix.lower() not in _PICTURES or not picture.is_file():
            raise UserError(f"expected a PNG or JPEG file as picture, given {picture}; correct its name")
    path = Path(folder) / FILE
    save_weights(path, state, meta, card=True)
    for picture in shown:
        with renamed(path.with_name(picture.name)) as temporary:
            shutil.copyfile(picture, temporary)
    if shown:
        page = path.with_name("README.md")
        lines = "".join(f"\n![{picture.stem}]({quote(picture.name)})\n" for picture in shown)
        write_text(page, page.read_text(encoding="utf-8") + f"\n## Pictures\n{lines}")
    return path


def push_to_hub(
    network: nn.Module | str | Path,
    name: str,
    *,
    private: bool = False,
    message: str = "Upload weights",
    meta: dict[str, Any] | None = None,
    pictures: Sequence[str | Path] = (),
) -> str:
    """Upload what `save_pretrained` writes to the Hugging Face hub; return its address.

    Args:
        network, meta, pictures: see `save_pretrained`.
        name: ``USER/NAME``; the model is created if it does not exist.
        private: whether it is then private.
        message: of the commit.

    Raises:
        lemamba.utils.errors.UserError: see `save_pretrained`; or no login, no access or no network.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(network, folder, meta=meta, pictures=pictures)
        return upload(Path(folder), name, private=private, message=message)


def _content(network: nn.Module | str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if isinstance(network, nn.Module):
        return network.state_dict(), getattr(network, "described", {})
    file = open_weights(str(network))
    return file.state, {key: value for key, value in file.meta.items() if key != "sha256"}
