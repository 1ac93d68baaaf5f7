"""What a gateway remembers over a restart: the newest exposure that it has accepted."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from understudy.errors import FlagDocumentError
from understudy.exposure import Exposure, publish, read_flag

__all__ = ["Memory"]

_PATIENCE_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Memory:
    """Keeps the newest accepted exposure of one model in a file, in the shape of the flag document.

    Gateways of one model that share the state folder share the file; the highest generation stays.

    Args:
        path: The file.
        model: Registered model name.

    Attributes:
        before: What was remembered when this process started, if anything was.
        lost: Why what was remembered cannot be read, or nothing.
        trouble: Why it cannot be written, or nothing.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.before: Exposure | None = None
        self.lost: str | None = None
        self.trouble: str | None = None
        self.path = path
        self._model = model
        self._writing: asyncio.Task[None] | None = None
        self._begun = 0.0
        try:
            self.before = self._read()
        except FlagDocumentError as error:
            self.lost = error.message
        self._generation = self.before.generation if self.before else -1

    def holds(self, exposure: Exposure) -> bool:
        """Return whether a generation is remembered; asking begins to write it if it is not. Never waits."""
        if exposure.generation <= self._generation:
            return True
        if self._writing is None:
            self._begun = time.monotonic()
            self._writing = asyncio.create_task(self._write(exposure))
        elif time.monotonic() - self._begun > _PATIENCE_SECONDS:
            self._fail(f"{self.path} is being written for more than {_PATIENCE_SECONDS:g} s")
        return False

    async def _write(self, exposure: Exposure) -> None:
        try:
            self._generation = await asyncio.to_thread(self._kept, exposure)
            self.trouble = None
        except OSError as error:
            self._fail(f"{self.path} cannot be written ({error.strerror})")
        finally:
            self._writing = None

    def _fail(self, trouble: str) -> None:
        if trouble != self.trouble:
            _log.error("%s", trouble)
        self.trouble = trouble

    def _kept(self, exposure: Exposure) -> int:
        """Write an exposure unless a higher generation is there already; return the generation that is."""
        try:
            found = self._read()
        except FlagDocumentError:
            found = None
        if found is not None and found.generation >= exposure.generation:
            return found.generation
        publish(self.path, [exposure])
        return exposure.generation

    def _read(self) -> Exposure | None:
        try:
            found = read_flag(self.path, self._model)
        except FlagDocumentError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if found is None:
            raise FlagDocumentError(f"{self.path} has no flag for model {self._model!r}.")
        return found
