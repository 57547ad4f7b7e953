"""Where this package lies, for the processes that it starts."""

from pathlib import Path


def import_path() -> str:
    """The folder to put on another process's PYTHONPATH, so that it imports this very package."""
    return str(Path(__file__).resolve().parents[2])
