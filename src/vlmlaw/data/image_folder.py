"""Find images by their names in data, below one folder; a name or link that leads out of the folder is refused.

Names come with downloaded data. One that leads out of its folder could copy any file of this machine into a data set.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path, PurePosixPath

FOLLOW_LINKS = "VLMLAW_FOLLOW_LINKS"  # an environment variable; 1: links in the folder may lead anywhere


def fault_of(folder: Path, name: str) -> str:
    """Say why no image of this name can be read below the folder, as the end of a sentence; "" if one can.

    >>> fault_of(Path("images"), "../secret.png")
    'is no name of a file below the folder of images'
    """
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name or PurePosixPath(name).is_absolute() or ".." in parts:
        return "is no name of a file below the folder of images"
    try:
        if not (folder / name).is_file():
            return "is missing"
    except OSError:  # a name that no file system takes
        return "is missing"
    target = _target(folder / name)
    if os.environ.get(FOLLOW_LINKS) == "1" or any(target.is_relative_to(root) for root in _roots(folder)):
        return ""
    return (
        f"is or lies behind a link to {target}, outside the folder of images; put the file there, or set "
        f"{FOLLOW_LINKS}=1 if the folder's links are your own"
    )


def _target(path: Path) -> Path:
    """Return where a file really lies. Folders are resolved once, because each has many files."""
    return Path(os.path.realpath(path)) if path.is_symlink() else _real(path.parent) / path.name


@lru_cache(maxsize=10_000)
def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


@lru_cache(maxsize=100)
def _roots(folder: Path) -> tuple[Path, ...]:
    """Return where the folder's files may lie: in itself and, in the hub's cache, in the folder of their content."""
    real = _real(folder)
    caches = [parent.parent / "blobs" for parent in real.parents if parent.name == "snapshots"]
    return (real, *(blobs for blobs in caches if blobs.is_dir()))
