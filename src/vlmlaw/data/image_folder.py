"""Find images by their names in data, below one folder; a name or link that leads out of the folder is refused.

Names come with downloaded data. One that leads out of its folder could copy any file of this machine into a data set.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

FOLLOW_LINKS = "VLMLAW_FOLLOW_LINKS"  # an environment variable; 1: links in the folder may lead anywhere
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")


def fault_of(folder: Path, name: str) -> str:
    """Say why no image of this name can be read below the folder, as the end of a sentence; "" if one can.

    >>> fault_of(Path("images"), "../secret.png")
    'leaves the folder of images by ..; name a file below it'
    >>> fault_of(Path("images"), "https://example.org/a.png")
    'is an address, and images are read from files; download it and name the file'
    """
    if fault := _fault_of_name(name):
        return fault
    try:
        is_there = (folder / name).is_file()
    except OSError:  # a name that no file system takes
        is_there = False
    if not is_there:
        address = "is an address, and images are read from files; download it and name the file"
        return address if ADDRESS.match(name) else "is missing"
    target = _target(folder / name)
    if os.environ.get(FOLLOW_LINKS) == "1" or any(target.is_relative_to(root) for root in _roots(folder)):
        return ""
    return (
        f"is or lies behind a link to {target}, outside the folder of images; put the file there, or set "
        f"{FOLLOW_LINKS}=1 if the folder's links are your own"
    )


def _fault_of_name(name: str) -> str:
    """Say why a name cannot be that of a file below any folder; "" if it can."""
    path = PurePosixPath(name)
    if path.is_absolute():
        return f"is an absolute path; name it as it stands below the folder of images, as {path.name or 'a.png'}"
    if ".." in path.parts:
        return "leaves the folder of images by ..; name a file below it"
    return "" if path.parts and "\0" not in name else "is no name of a file"


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
