"""Which state of the project is running. It has no version numbers yet: the commit says it."""

from __future__ import annotations

import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def project_version() -> str:
    """Return "commit <hash>", with "-dirty" where files were changed since, or "unknown (not a git checkout)"."""
    if (_ROOT / ".git").exists():  # else git would answer for a checkout around ours
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True)
            return f"commit {done.stdout.strip()}"
        except (OSError, subprocess.SubprocessError):  # no git, a foreign owner's folder, a disk that hangs
            pass
    return "unknown (not a git checkout)"
