"""The report: figures of the laws and the measurements, and one self-contained page that tells the result.

Everything that is drawn or said comes from the law's analysis (`vlmlaw law fit TABLE --out law.json`) and from the
table that it was fitted to; what the workflow knows beyond them (cells, samples, the experiment) is shown where given.
"""

import hashlib
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


def templates_version() -> str:
    """A short hash of the page's templates, which are no Python that a fingerprint of code would cover."""
    digest = hashlib.sha256()
    for path in sorted(TEMPLATES.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
