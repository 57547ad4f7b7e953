"""Outputs that appear whole or not at all: written beside their place, renamed into it when they are finished."""

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from vlmlaw.errors import UserError

# What numpy, zipfile and zlib raise for a .npz or .npy that is cut, empty, overwritten or of another kind.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def refused_if_damaged(folder: Path, what: str) -> Iterator[None]:
    """Turn what transformers, tokenizers and safetensors raise for a damaged file into a UserError with the folder.

    They raise whatever they stumble over. Want of memory, which is no fault of the files, passes.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise UserError(
            f"{folder} cannot be loaded as {what} ({type(error).__name__}: {error}). If a file of it is damaged or "
            "missing, restore it or make it again."
        ) from error


@contextmanager
def whole_file(out: str | Path) -> Iterator[Path]:
    """A path to write to; it becomes `out` when the block ends well, and is removed when it raises.

    A crash in the midst leaves the sibling `.{name}.partial`, which the next run overwrites, and `out` as it was.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(out, "partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        _flush(partial)
        partial.replace(out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(out: str | Path) -> Iterator[Path]:
    """An empty folder to write to; it becomes `out`, in place of what was there, when the block ends well.

    A crash leaves the sibling `.{name}.partial`, which the next run empties, and `out` as it was or absent.
    """
    out = Path(out)
    partial, old = _sibling(out, "partial"), _sibling(out, "old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                _flush(path)
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(out: Path, suffix: str) -> Path:
    return out.parent / f".{out.name}.{suffix}"


def _flush(path: Path) -> None:
    """Have the file on the disk before its name is: after a power cut a name never points to an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
