"""Answers that cost time and depend on nothing but their question, remembered between processes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vlmlaw.runtime.whole_files import whole_file


def recall(*question: str) -> Any:
    """The answer that was remembered, or None."""
    try:
        return json.loads(_place(question).read_text())
    except (OSError, ValueError):
        return None


def remember(answer: Any, *question: str) -> None:
    """Keep an answer (plain data) for later processes, where there is a home to write to."""
    try:
        with whole_file(_place(question)) as partial:
            partial.write_text(json.dumps(answer))
    except OSError:
        pass  # the next process works it out again


def _place(question: tuple[str, ...]) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vlmlaw" / f"{hashlib.sha256(json.dumps(question).encode()).hexdigest()}.json"
