"""One maker at a time for each output: a lock that ends with its process, however that ends.

Beside an output NAME lies `.NAME.lock` while it is made: whose it is, in words, locked as long as the process lives.
The system releases the lock with the process, kill -9 included. Where a file system has no locks, or keeps them on each
machine for itself, the maker of another machine is known to live by the file's time, which it renews.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.runtime.processes import ProcessId

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_SIGNS = 10.0  # of life, in the file's time
SECONDS_TO_WATCH = 60.0  # a maker on another machine that gives no sign for so long is dead
HELD = "VLMLAW_HELD"  # the output whose lock the process that started this one holds


@dataclass(frozen=True)
class Owner:
    """Who makes an output: the process, what it does, since when, and the process that started it, if any."""

    out: str
    what: str
    process: ProcessId
    since: float
    head: ProcessId | None = None
    lock: Path = field(default_factory=Path, compare=False)

    def __str__(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"{self.out} ({self.what}), {self.process}, since {at}"


def lock_of(out: Path) -> Path:
    """The file that says who makes `out`."""
    return out.parent / f".{out.name}.lock"


@contextmanager
def owned(
    out: Path,
    *,
    what: str,
    head: ProcessId | None = None,
    wait: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bool]:
    """Hold the output's lock for the block; True where another process had it and this one waited.

    Raises UserError, which names the other process, where it may not wait. A process that was started by the one that
    holds the lock shares it.
    """
    if os.environ.get(HELD) == str(out.absolute()):
        yield False
        return
    lock = lock_of(out)
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor, waited = _take(lock, out, wait=wait, sleep=sleep)
    owner = Owner(str(out), what, ProcessId.of_this(), time.time(), head)
    _write(descriptor, owner)
    before = os.environ.get(HELD)
    os.environ[HELD] = str(out.absolute())
    ended = threading.Event()
    threading.Thread(target=_give_signs, args=(descriptor, ended), daemon=True).start()
    try:
        yield waited
    finally:
        ended.set()
        os.environ.pop(HELD) if before is None else os.environ.update({HELD: before})
        with suppress(OSError):
            lock.unlink()  # while it is still locked, so that nobody else's is removed
        os.close(descriptor)


def living_owners(folder: Path, *, here_only: bool = False) -> list[Owner]:
    """Everybody who makes something in this folder or below now, on any machine or this one; looks three folders deep.

    Whether a process of another machine lives may take SECONDS_TO_WATCH.
    """
    found = ((path, _read(path)) for path in _locks(folder, depth=3))
    known = [(path, owner) for path, owner in found if owner]
    elsewhere = {path: _time(path) for path, owner in known if not owner.process.is_here}
    owners = [owner for path, owner in known if path not in elsewhere and _is_held(path, owner)]
    if elsewhere and not here_only:  # one look at the clock for all of them
        deadline = time.monotonic() + SECONDS_TO_WATCH
        waiting = {path for path in elsewhere if not _is_locked(path)}
        while waiting and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            waiting = {path for path in waiting if path.exists() and _time(path) == elsewhere[path]}
        owners += [owner for path, owner in known if path in elsewhere and path not in waiting and path.exists()]
    return owners


def _take(lock: Path, out: Path, *, wait: bool, sleep: Callable[[float], None]) -> tuple[int, bool]:
    """A descriptor that holds the lock, and whether another process had it before."""
    waited, signs = False, _Signs()
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        free, owner = _try_lock(descriptor), _read(lock)
        if free and not _is_the_file(descriptor, lock):
            os.close(descriptor)  # its owner has just ended
            continue
        if free and not signs.of_life(lock, owner):
            return descriptor, waited
        os.close(descriptor)
        if not wait:
            who = f"{owner.process} ({owner.what})" if owner else "another process"
            raise UserError(
                f"{out} is being made by {who}. Wait until that has ended, or end it; a training keeps its checkpoint."
            )
        if not waited:
            print(f"waiting for {owner or f'another process that makes {out}'}", file=sys.stderr, flush=True)
        waited = True
        sleep(SECONDS_BETWEEN_LOOKS)


class _Signs:
    """Whether the process of another machine, whose lock this one may not see, still renews its file."""

    def __init__(self) -> None:
        self._seen: dict[ProcessId, tuple[float, float]] = {}

    def of_life(self, lock: Path, owner: Owner | None) -> bool:
        """Whether the owner may live: of this machine by the process, of another by what was seen of its file."""
        if owner is None:
            return False
        if owner.process.is_here:
            return owner.process.is_alive and owner.process != ProcessId.of_this()
        now, at = time.monotonic(), _time(lock)
        before, since = self._seen.get(owner.process, (None, now))
        if at != before:
            self._seen[owner.process] = (at, now)
            return True
        return now - since < SECONDS_TO_WATCH


def _try_lock(descriptor: int) -> bool:
    """Lock the file, if no other process has it; True also where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _is_the_file(descriptor: int, lock: Path) -> bool:
    """Whether the locked file is still the one of that name: its owner removes it in the end."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except OSError:
        return False


def _is_locked(path: Path) -> bool:
    """Whether another process holds the lock, as far as this machine sees."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _is_held(path: Path, owner: Owner) -> bool:
    return _is_locked(path) or (owner.process.is_alive and owner.process != ProcessId.of_this())


def _give_signs(descriptor: int, ended: threading.Event) -> None:
    """Renew the file's time until the owner has ended; its content is as it was."""
    while not ended.wait(SECONDS_BETWEEN_SIGNS):
        with suppress(OSError):
            os.utime(descriptor)


def _write(descriptor: int, owner: Owner) -> None:
    text = json.dumps({key: value for key, value in asdict(owner).items() if key != "lock"})
    with suppress(OSError):  # a full disk: locked all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        os.utime(descriptor)


def _read(lock: Path) -> Owner | None:
    """Who wrote the file; None where nobody did, or not to the end."""
    try:
        data: dict[str, Any] = json.loads(lock.read_text(encoding="utf-8"))
        head = data.pop("head")
        own = ProcessId(**data.pop("process"))
        return Owner(**data, process=own, head=ProcessId(**head) if head else None, lock=lock)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _time(path: Path) -> float:
    """The file's time; opened, since a network file system may answer for a closed one from memory."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


def _locks(folder: Path, *, depth: int) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") and entry.name.endswith(".lock"):
            yield Path(entry.path)
        elif depth and entry.is_dir() and not entry.name.endswith((".work", ".partial", ".old")):
            yield from _locks(Path(entry.path), depth=depth - 1)
