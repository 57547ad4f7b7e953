"""A released checkpoint's files: where they come from, its processor and weights, a hash of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.hub.fetch import TOKENIZER_PATTERNS, fetch_files
from vlmlaw.hub.pins import CONFIG_FILES, WEIGHT_FILES
from vlmlaw.hub.settings import ModelSettings

FILES = (*CONFIG_FILES, *TOKENIZER_PATTERNS, *WEIGHT_FILES, "chat_template.json", "video_preprocessor_config.json")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint comes from: a folder, or an id of the hub with a revision."""

    place: str
    revision: str = "main"

    @classmethod
    def of_text(cls, text: str) -> Source:
        """Read `FOLDER` or `HUB_ID[@REVISION]`.

        >>> Source.of_text("HuggingFaceTB/SmolVLM-256M-Instruct@main").place
        'HuggingFaceTB/SmolVLM-256M-Instruct'
        """
        place, at, revision = text.rpartition("@")
        return cls(place, revision) if at and not Path(text).is_dir() else cls(text)

    @property
    def name(self) -> str:
        """The name in tables: the folder's own, or the id with a revision that is not `main`."""
        folder = Path(self.place)
        if folder.is_dir():
            folder = folder.resolve()
            return folder.parent.name if folder.name == "model" else folder.name
        return self.place if self.revision == "main" else f"{self.place}@{self.revision}"

    def fetch(self, patterns: Sequence[str] = FILES, *, weights: bool = True) -> tuple[Path, str]:
        """The folder with its files, and its commit where it is the hub's. Raises UserError: unsafe or incomplete."""
        settings = ModelSettings(source=self.place, revision=self.revision)
        return fetch_files(settings, patterns, weights=weights)


def load_processor(folder: Path) -> Any:
    """The checkpoint's own processor. Raises UserError where a package is missing that it needs."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(folder)
    except ImportError as error:
        needs = "torchvision" if "torchvision" in str(error).lower() else " ".join(str(error).split())[:200]
        raise UserError(
            f"the processor of {folder.name} needs a package that is not here: {needs}. Install it beside the release "
            "of torch that it belongs to, in an environment of its own, or ask the model through a server with "
            "--endpoint."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no processor that transformers can read: {' '.join(str(error).split())[:300]}"
        ) from error


def load_weights(folder: Path, dtype: str) -> Any:
    """The model, whole, on a GPU where there is one. Raises UserError: no such model, weights missing."""
    from transformers import AutoModelForImageTextToText

    from vlmlaw.vlm.device import best_device

    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except ValueError as error:
        raise UserError(
            f"{folder} is no model that answers questions about images: {' '.join(str(error).split())[:300]}"
        ) from error
    model, loading = loaded
    if loading["missing_keys"] or loading["mismatched_keys"]:
        missing = sorted({*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])})
        raise UserError(
            f"{folder} lacks weights that its config.json asks for, {len(missing)} of them, as {missing[0]}; they "
            "would be random. Download the checkpoint again, whole."
        )
    return model.to(best_device()).eval()


def require_shards(folder: Path) -> None:
    """Raise UserError where files of weights are missing, before any model is asked."""
    for index in folder.glob("*.safetensors.index.json"):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(name for name in names if not (folder / name).is_file()):
            raise UserError(
                f"{folder} lacks {len(missing)} of the {len(names)} files that {index.name} lists, as {missing[0]}; "
                "download the checkpoint again, whole."
            )


def digest_of(folder: Path) -> str:
    """A hash of the files that decide what a checkpoint answers."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()
