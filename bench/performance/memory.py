"""Gives a virtual machine all of its memory before anything is measured."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_REPORTING = Path("/sys/module/page_reporting/parameters/page_reporting_order")
# The kernel knows no free blocks as large as this.
_NEVER = "11"
_LEFT_ALONE = 4 << 30


@contextmanager
def own_memory() -> Iterator[str]:
    """Keep the memory of this machine for as long as the context, where it may be changed, and yield what was done.

    A virtual machine may give free memory back to its host. To get a page again takes the kernel ten times as long as to use one
    that it has, which whoever writes to a file pays: a log beside a server that writes nothing.
    """
    try:
        before = _REPORTING.read_text()
        _REPORTING.write_text(_NEVER)
    except OSError:
        yield "as the machine gives it"
        return
    try:
        _touch(psutil.virtual_memory().available - _LEFT_ALONE)
        yield "all of it touched before, none given back to the host"
    finally:
        _REPORTING.write_text(before)


def _touch(size: int) -> None:
    if size > 0:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for page in range(0, size, mmap.PAGESIZE):
                memory[page] = 1
