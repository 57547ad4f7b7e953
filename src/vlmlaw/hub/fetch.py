"""Fetch the files of a pretrained model from the hub or a local folder.

A stage's result is a small file, `model.json`, that pins commit and contents; the weights stay where they are. Only
safetensors are read, because unpickling a file of weights can run any code of its author.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmlaw.errors import UserError
from vlmlaw.hub.download import download
from vlmlaw.hub.pins import CONFIG_FILES
from vlmlaw.hub.shapes import read_config

if TYPE_CHECKING:
    from vlmlaw.hub.settings import ModelSettings

COMMIT = re.compile(r"[0-9a-f]{40}")
TOKENIZER_PATTERNS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.jinja")


def fetch_tokenizer_files(settings: ModelSettings) -> Path:
    """Return a folder with the files of a model's tokenizer."""
    return fetch_files(settings, (*CONFIG_FILES, *TOKENIZER_PATTERNS), weights=False)[0]


def fetch_files(settings: ModelSettings, patterns: Sequence[str], *, weights: bool = True) -> tuple[Path, str]:
    """Return the model's folder, downloaded if it is on the hub, and its commit.

    Raises UserError for a model that needs code of its own without permission, or that has no safetensors.
    """
    folder, commit = Path(settings.source), ""
    if not folder.is_dir():
        folder = download(settings.source, settings.revision, patterns)
        commit = folder.name if COMMIT.fullmatch(folder.name) else ""
        print(f"{settings.source}, revision {settings.revision}: commit {commit}")
    config = read_config(folder)
    if "auto_map" in config and not settings.trust_remote_code:
        raise UserError(
            f"{settings.source} brings Python code of its own ({', '.join(config['auto_map'])}), which would run here. "
            "Read it, then set `trust_remote_code: true` and a `revision` that is a commit; or take another model."
        )
    if weights and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{settings.source} has no weights as safetensors, only formats that can run code when they are read, or "
            "none. Name a `revision` that has them (the hub's conversion bot opens one as refs/pr/N), or convert it: "
            "load it where you trust it, and `save_pretrained` it to a folder."
        )
    return folder, commit
