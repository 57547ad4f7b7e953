"""The templates of the page, and a hash of them."""

import hashlib
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


def templates_version() -> str:
    """A short hash of the templates of the page, which the fingerprint of the Python code does not cover."""
    digest = hashlib.sha256()
    for path in sorted(TEMPLATES.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
