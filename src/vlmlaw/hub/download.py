"""The hub's files, through its own cache; a name that is neither there nor here is an error at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmlaw.errors import UserError

NAMES_SHOWN = 8


def download(source: str, revision: str, files: Sequence[str], *, kind: str = "model") -> Path:
    """The folder of a repository's files of these names (patterns); its own name is the commit.

    Raises UserError where the hub does not give it. hf_hub_download would try again for half a minute when offline.
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
    """What lies beside a folder that is not there: its name may be misspelt."""
    if path.parent == Path() or not path.parent.is_dir():
        return ""
    names = sorted(folder.name for folder in path.parent.iterdir() if folder.is_dir())
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return f" ({path.parent} has {', '.join(names[:NAMES_SHOWN]) or 'no folder'}{more})"
