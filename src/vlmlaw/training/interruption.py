"""When a training stops and when it saves: SIGTERM and Ctrl-C as a flag, and the clock of checkpoints."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlmlaw.training.distributed import EXIT_RUN_ME_AGAIN

LEAST_TIME_BETWEEN_CHECKPOINTS = 20  # times what the last one took, so that they take 5 % of the time at most


class Stopped(SystemExit):
    """A stop was asked for (SIGTERM or Ctrl-C) and the work so far is saved."""

    def __init__(self) -> None:
        super().__init__(EXIT_RUN_ME_AGAIN)


class StopSwitch:
    """Turns SIGTERM, a cluster's notice before it kills, and Ctrl-C into a flag that the loop reads between steps.

    A second Ctrl-C acts at once, as if there were no switch; a second SIGTERM adds nothing, since a cluster may send
    one to each process and a parent pass on its own.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> StopSwitch:
        self.pressed = False
        self._before = {number: signal.signal(number, self._press) for number in self.SIGNALS}
        return self

    def _press(self, *_: Any) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class CheckpointClock:
    """Says when a checkpoint is due: after so many seconds, and never so often that it takes much of the time."""

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
