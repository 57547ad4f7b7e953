"""Download files of the hub through its own cache; a name that exists neither there nor here fails at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmlaw.errors import UserError

NAMES_SHOWN = 8


def download(source: str, revision: str, files: Sequence[str], *, kind: str = "model") -> Path:
    """Download a repository's files that match these patterns; the name of the folder returned is the commit.

    Raises UserError if the hub does not deliver them. hf_hub_download would retry for half a minute when offline.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, repo_type=kind, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{source} (revision {revision}) is no folder here{_what_is_here(Path(source))}, and the hub does not give "
            f"it: {reason} Check the name; for a gated {kind} accept its terms and log in (`hf auth login`); offline, "
            "download it elsewhere and name its folder."
        ) from error


def _what_is_here(path: Path) -> str:
    """List the folders beside a missing one, whose name may be misspelt."""
    if path.parent == Path() or not path.parent.is_dir():
        return ""
    names = sorted(folder.name for folder in path.parent.iterdir() if folder.is_dir())
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return f" ({path.parent} has {', '.join(names[:NAMES_SHOWN]) or 'no folder'}{more})"
