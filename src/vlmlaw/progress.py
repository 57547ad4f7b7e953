"""Progress of long jobs, with an estimate of the time left: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts steps of a job and shows how far it is; `note` adds a figure, for instance the loss."""

    def __init__(self, total: int, what: str, *, done: int = 0):
        self._total, self._what, self._start = total, what, time.monotonic()
        self._done, self._resumed_at, self._last_line = done, done, self._start
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=what)

    def step(self, note: str = "") -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if self._done == self._total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            seconds = now - self._start
            left = seconds / (self._done - self._resumed_at) * (self._total - self._done)
            share = f"{self._done}/{self._total}"
            print(f"{self._what}: {share}, {seconds:.0f} s, {left:.0f} s left {note}".rstrip(), file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items, shown as they pass."""
    shown = Progress(total, what)
    for item in items:
        yield item
        shown.step()
    shown.close()
