"""argparse whose complaints are one line and name the nearest flag."""

from __future__ import annotations

import argparse
from typing import NoReturn

from lemamba.utils.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UserError` instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Turn argparse's message into one line."""
        hint = ""
        if message.startswith("unrecognized arguments: "):
            given = message.removeprefix("unrecognized arguments: ").split()[0]
            hint = nearest(given, self._option_string_actions)
        raise UserError(f"{message}{hint}; see --help")
