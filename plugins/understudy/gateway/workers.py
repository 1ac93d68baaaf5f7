"""Threads that score and load models, with a bound on what may wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["TooBusy", "Workers"]

T = TypeVar("T")
_Job = tuple[asyncio.Future[Any], asyncio.AbstractEventLoop, Callable[[], Any]]


class TooBusy(Exception):
    """More work is waiting than may wait."""


class Workers:
    """A few daemon threads. Unlike the standard executor they never keep a process alive: a model may hang for ever.

    Args:
        name: Name of the threads.
        threads: How many.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = threads
        self._pending = 0
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, job: Callable[[], T], limit: int) -> asyncio.Future[T]:
        """Run a job in a thread. Call it from the event loop.

        Args:
            job: What to run.
            limit: How many jobs may be running or waiting at once.

        Raises:
            TooBusy: The limit is reached. Jobs given up by their callers count until a thread has passed them.
        """
        if self._pending >= limit:
            raise TooBusy(f"{self._pending} calls are already waiting")
        self._pending += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((future, loop, job))
        return future

    def close(self) -> None:
        """Let every thread end after the work that is queued; one that hangs is left alone."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (queued := self._jobs.get()) is not None:
            future, loop, job = queued
            result: Any = None
            error: BaseException | None = None
            if not future.cancelled():
                try:
                    result = job()
                except BaseException as raised:  # a model may raise anything, SystemExit too
                    error = raised
            try:
                loop.call_soon_threadsafe(self._settle, future, result, error)
            except RuntimeError:  # the loop is closed: the process is on its way out
                return
            # An idle thread must not keep the last model it scored in memory.
            del queued, future, job, result, error

    def _settle(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._pending -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            # StopIteration and SystemExit cannot travel through a future or would end the loop.
            future.set_exception(
                error
                if isinstance(error, Exception) and not isinstance(error, StopIteration)
                else RuntimeError(f"{type(error).__name__} was raised")
            )
