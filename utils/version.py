"""The version of the project that is running."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lemamba import __version__

_ROOT = Path(__file__).resolve().parent.parent


def project_version() -> str:
    """Return e.g. "0.2.0", in a clone "0.2.0 (commit <hash>)", with "-dirty" if files differ from that commit."""
    if (_ROOT / ".git").exists():  # otherwise git would answer for a repository around an installed package
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True)
            return f"{__version__} (commit {done.stdout.strip()})"
        except (OSError, subprocess.SubprocessError):  # no git, another user's folder, a disk that hangs
            pass
    return __version__
