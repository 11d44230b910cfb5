"""Reading, computing and writing at once: a thread ahead of the work, several at it and one behind it.

All queues are bounded.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")
_workers: ContextVar[int] = ContextVar("workers", default=1)
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


@contextmanager
def two_at_once(allowed: bool = True) -> Iterator[None]:
    """Let `in_order` work at two items at once, if that is allowed and torch has two threads or more."""
    import torch

    token = _workers.set(2 if allowed and torch.get_num_threads() > 1 else 1)
    try:
        yield
    finally:
        _workers.reset(token)


def in_order(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield ``work(item)`` of all items in their order; within `two_at_once`, two are computed at once.

    Torch then computes each with one thread: what is done with a window is too small to be shared (two threads took
    longer than one), and the last bits of sums do not depend on the number of threads.
    """
    import torch

    workers, mode, threads = _workers.get(), torch.is_inference_mode_enabled(), torch.get_num_threads()

    def one(item: S) -> T:
        with torch.inference_mode(mode):
            return work(item)

    if workers == 1:
        yield from map(one, items)
        return
    waiting: deque[Future[T]] = deque()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, "in_order") as pool:
            for item in items:
                waiting.append(pool.submit(one, item))
                if len(waiting) == workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


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
