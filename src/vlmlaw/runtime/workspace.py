"""The folder beside a result where an unfinished training keeps its checkpoint and log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WAITING: list[list[Path]] = []


def workspace_of(out: Path) -> Path:
    """The folder beside `out` where an unfinished training keeps its checkpoint and log."""
    return out.parent / f"{out.name}.work"


def clear_workspace(out: Path) -> None:
    """Remove the working folder of a finished training; within `cleared_at_the_end` when that ends."""
    if _WAITING:
        _WAITING[-1].append(out)
    else:
        shutil.rmtree(workspace_of(out), ignore_errors=True)


@contextmanager
def cleared_at_the_end() -> Iterator[None]:
    """Keep working folders until the block has ended well: what it still does may fail, and must cost no training."""
    _WAITING.append([])
    try:
        yield
    except BaseException:
        _WAITING.pop()
        raise
    for out in _WAITING.pop():
        clear_workspace(out)
