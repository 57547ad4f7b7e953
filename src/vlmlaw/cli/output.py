"""Output that outlives its reader: a cluster's SIGTERM ends `tee` before the job has saved its work.

What the job says then raises BrokenPipeError, in the midst of saving. So it goes on into the log file itself.
"""

import os
import stat
import sys
from pathlib import Path
from typing import Any, TextIO


def redirect_broken_stdout(log: Path) -> None:
    """Have stdout and stderr, where they are pipes, go on into this file when nobody reads them any more."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        is_own = stream is not None and stream is getattr(sys, f"__{name}__")  # and not what a test captures with
        if is_own and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            setattr(sys, name, _Unbroken(stream, log))


class _Unbroken:
    """A stream that is written through at once; whatever else is asked of it, the stream itself answers."""

    def __init__(self, stream: TextIO, log: Path):
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            self._move()
            self._stream.write(text)  # which Python has dropped
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._move()

    def _move(self) -> None:
        """Put the file in the pipe's place."""
        file = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(file, self._stream.fileno())
        os.close(file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
