"""Progress of long jobs, with an estimate of the time left: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts steps of a job and shows how far it is, if `on`; `note` adds a figure, for instance the loss."""

    def __init__(self, total: int, what: str, *, done: int = 0, on: bool = True):
        self._total, self._what, self._start, self._on = total, what, time.monotonic(), on
        self._done, self._resumed_at, self._last_line = done, done, self._start
        self._bar = None
        if on and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=what)

    def step(self, note: str = "", *, n: int = 1) -> None:
        """Count `n` more."""
        self._done += n
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(n)
            return
        if not self._on:
            return
        now = time.monotonic()
        if self._done == self._total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            seconds = now - self._start
            left = seconds / (self._done - self._resumed_at) * (self._total - self._done)
            share = f"{self._done}/{self._total}"
            print(f"{self._what}: {share}, {seconds:.0f} s, {left:.0f} s left {note}".rstrip(), file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items, shown as they pass."""
    with Progress(total, what) as shown:
        for item in items:
            yield item
            shown.step()
