"""Reading, computing and writing at once: a thread ahead of the work and one behind it, with bounded queues."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_POLL = 0.2  # seconds after which a waiting thread looks whether the other side has ended


class _Failed:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Yield `items`, which a thread produces in advance.

    Args:
        items: iterated in the thread only; its errors are raised here.
        depth: items that wait at most; one more is being produced.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    ended = threading.Event()

    def hand_over(item: Any) -> bool:
        while not ended.is_set():
            try:
                waiting.put(item, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not hand_over(item):
                    return
        except BaseException as raised:  # raised again by the consumer
            error = raised
        hand_over(_Failed(error))

    thread = threading.Thread(target=produce, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _Failed):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        ended.set()
        thread.join()


class Behind(Generic[T]):
    """``with Behind(work) as put: put(item)`` calls ``work(item)`` in a thread, in order, and waits for it at the end.

    An error of `work` is raised by the next `put` or at the end; items after it are dropped. If the block itself fails,
    items that wait are dropped, too.

    Args:
        work: what is done with an item.
        depth: items that wait at most.
    """

    def __init__(self, work: Callable[[T], object], depth: int = 1) -> None:
        self._work = work
        self._waiting: queue.Queue[Any] = queue.Queue(depth)
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)
        self._dropped = False
        self._error: BaseException | None = None

    def __enter__(self) -> Behind[T]:
        self._thread.start()
        return self

    def __call__(self, item: T) -> None:
        """Hand an item over; waits while the queue is full."""
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def _run(self) -> None:
        while not isinstance(item := self._waiting.get(), _Failed):
            if self._error is None and not self._dropped:
                try:
                    self._work(item)
                except BaseException as error:  # raised again in the thread that hands over
                    self._error = error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._dropped = kind is not None
        self._waiting.put(_Failed(None))
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
