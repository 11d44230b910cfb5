"""What every entry point does before torch is imported."""

from __future__ import annotations

from lemamba.utils.allocator import keep_freed_memory
from lemamba.utils.threads import limit_spinning


def prepare_process() -> None:
    """Set how threads wait and how freed memory is kept, where the user has not (utils/threads.py, allocator.py)."""
    limit_spinning()
    keep_freed_memory()
