"""The exception that ends a training on request, and the clock of its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from vlmlaw.training.distributed import EXIT_RUN_ME_AGAIN

LEAST_TIME_BETWEEN_CHECKPOINTS = 20  # times the duration of the last one, so that they take 5 % of the time at most


class Stopped(SystemExit):
    """Raised after a request to stop (SIGTERM or Ctrl-C), when the work so far is saved."""

    def __init__(self) -> None:
        super().__init__(EXIT_RUN_ME_AGAIN)


class CheckpointClock:
    """Says when a checkpoint is due: after `seconds`, or later if checkpoints take much of the time."""

    def __init__(self, seconds: float):
        self._seconds, self._between, self._saved = seconds, seconds, time.monotonic()

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._saved >= self._between

    @contextmanager
    def saving(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._between = max(self._seconds, LEAST_TIME_BETWEEN_CHECKPOINTS * (self._saved - began))
