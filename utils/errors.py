"""Errors a user can mend: one line that says what was expected, what was given and what to do.

A `UserError` is about the input (a file, a flag, a shape). Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT, as a shell reports it
_LONGEST_LINE = 1200  # letters; a value from a file may be as long as the file


class UserError(Exception):
    """Bad input. The message is one line: expected, given, what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean "X"?)`` for the closest known name, or an empty string when none is close."""
    by_key = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), list(by_key), n=1, cutoff=0.5)
    return f' (did you mean "{by_key[match[0]]}"?)' if match else ""


def one_line(error: UserError | str) -> str:
    """Return the message as it is shown: one line without control characters, however long a file's words."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 400]} […] {line[-380:]}"


def run_cli(main: Callable[[], int | None]) -> None:
    """Run an entry point: a `UserError` becomes one line on stderr and exit status 2. torch is imported in `main`.

    Ctrl-C, where `main` does not deal with it itself as training does, becomes one line and exit status 130.
    """
    from lemamba.utils.interrupts import Interrupts
    from lemamba.utils.startup import prepare_process

    prepare_process()
    try:
        with Interrupts():
            status = main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = USER_ERROR_STATUS
    except KeyboardInterrupt:  # what was being written under a temporary name is gone by now
        newline = "\n" if sys.stderr.isatty() else ""  # the terminal shows ^C
        print(f"{newline}interrupted; files are whole or absent", file=sys.stderr)
        status = INTERRUPTED_STATUS
    except BrokenPipeError:  # `… | head` closed the pipe: not an error of ours
        sys.stderr.close()
        status = 0
    sys.exit(status or 0)
