"""Let a checkpoint be resumed only by the training that left it: with the same settings, code and inputs.

Otherwise a training that was killed and then changed would go on from weights that the old settings made.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.runtime.whole_files import sha256_of, whole_file
from vlmlaw.settings import to_json

READ_UP_TO = 16 * 2**20  # bytes; larger inputs (cached features may be terabytes) are compared by size and time
OWNER = "made_from.json"


def claim(workspace: Path, *, code: str, settings: Any, inputs: Iterable[Path]) -> bool:
    """Reserve the workspace for this training; return True if it holds work of the same training to resume."""
    made_from = {
        "settings": to_json(settings),
        "code": code_version(code, compressor=getattr(settings, "compressor", None)),
        "inputs": {str(path): _identity(path) for folder in inputs for path in _files(folder)},
    }
    owner = workspace / OWNER
    try:
        same = json.loads(owner.read_text()) == made_from
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(workspace, ignore_errors=True)
        with whole_file(owner) as partial:
            partial.write_text(json.dumps(made_from, indent=1))
    return same


def _files(path: Path) -> list[Path]:
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


def _identity(path: Path) -> str:
    status = path.stat()
    if status.st_size > READ_UP_TO:
        return f"{status.st_size} bytes of {status.st_mtime_ns}"
    return sha256_of(path)
