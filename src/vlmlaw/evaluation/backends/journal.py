"""Replies kept line by line as they come, so that a run that ends anywhere goes on where it stopped.

A line is one JSON object: the key of the question as it was asked, its id, the reply. A line is written whole and
flushed before the next question counts as answered. One process at a time writes a journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import Reply


def key_of(*parts: str | bytes) -> str:
    """A key that two questions share only if all of it is the same: model, budget, text, images, options."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


class Journal:
    """The replies of one cell, in a file that only grows. Use it as a context manager; it holds the file's lock."""

    def __init__(self, path: Path):
        self.path = path
        self._write = threading.Lock()
        self.replies: dict[str, Reply] = {}

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(f"{self.path} is being written by another process; wait for it, or stop it.") from error
        self._file.seek(0)
        whole = 0
        for line in self._file.readlines():
            row = _parsed(line)
            if row is None:
                break  # what a process was writing when it was killed; a line behind it would not be there
            whole += len(line)
            self.replies[row["key"]] = _reply(row)
        self._file.truncate(whole)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, question: str, reply: Reply) -> None:
        """Keep a reply; it is on the disk when this returns. Safe to call from several threads."""
        line = json.dumps({"key": key, "id": question} | asdict(reply), ensure_ascii=False) + "\n"
        with self._write:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self.replies[key] = reply


def read_replies(path: Path) -> dict[str, Reply]:
    """The replies of a journal by key, without taking its lock; none where there is no such file."""
    lines: Iterable[bytes] = path.read_bytes().splitlines(keepends=True) if path.is_file() else ()
    rows = (_parsed(line) for line in lines)
    return {row["key"]: _reply(row) for row in rows if row is not None}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"key", "text", "seconds"} <= set(row) else None


def _reply(row: dict[str, Any]) -> Reply:
    own = {name: value for name, value in row.items() if name not in ("key", "id")}
    return Reply(**own | {"sizes": tuple(tuple(size) for size in own.get("sizes", ()))})
