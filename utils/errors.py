"""User-correctable errors: one line that says what was expected, what was given and what to do.

A `UserError` is about the input (a file, a flag, a shape). Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_LINE = 1200  # characters; a value from a file may be as long as the file


class UserError(Exception):
    """Bad input. The message is one line: expected, given, what to do."""

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows below the cell, as a command prints it: IPython looks for this name."""
        return [f"error: {one_line(self)}"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean "X"?)`` for the closest known name, or an empty string if none is close."""
    by_key = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), list(by_key), n=1, cutoff=0.5)
    return f' (did you mean "{by_key[match[0]]}"?)' if match else ""


def one_line(error: UserError | str) -> str:
    """Return the message as one line without control characters, shortened in the middle if it is very long."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 400]} […] {line[-380:]}"
