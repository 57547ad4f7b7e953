"""Pretrained models, of the hub or of folders here: which files a model consists of, and loading exactly those.

A stage's result is a small file, `model.json`, that pins commit and contents; the weights stay where they are. Only
safetensors are read, since unpickling a weights file can run whatever its author wished.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.download import download
from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import whole_folder
from vlmlaw.shapes import config_of, read_config, text_config, vision_config

if TYPE_CHECKING:
    from vlmlaw.stage_settings import ModelSettings

PIN = "model.json"
CONFIG_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
HASHED_AT_LOADING = 16 * 2**20  # bytes; larger files were hashed when fetched and are known by their size since
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pin:
    """What a pretrained model is: where it comes from, and the size and SHA-256 of each file that is read."""

    source: str
    commit: str  # of the hub; empty for a folder
    dtype: str
    trust_remote_code: bool
    files: Mapping[str, tuple[int, str]]
    image_mean: Sequence[float] = field(default_factory=list)  # of a vision tower
    image_std: Sequence[float] = field(default_factory=list)


@dataclass(frozen=True)
class Opened:
    """A model's own folder, found again and compared with its pin; a folder of our own stages has no pin."""

    folder: Path
    pin: Pin | None

    @property
    def trust_remote_code(self) -> bool:
        return self.pin is not None and self.pin.trust_remote_code


def fetch_vision(out: Path, *, settings: ModelSettings) -> None:
    """Fetch a vision tower; `out` gets its pin. Raises UserError where it cannot be one, or would not load whole."""
    from vlmlaw.towers import load_tower, pixel_statistics

    planned = config_of(settings.source, settings.revision)
    folder, commit = fetch_files(settings, (*CONFIG_FILES, *WEIGHT_FILES))
    _demand_same_shape(settings.source, vision_config(planned), vision_config(read_config(folder)))
    mean, std = pixel_statistics(folder)
    pin = pin_of(folder, settings, commit=commit, image_mean=mean, image_std=std)
    load_tower(Opened(folder, pin))
    with whole_folder(out) as partial:
        write_pin(pin, partial)


def fetch_language_model(tokenizer: Path, out: Path, *, settings: ModelSettings) -> None:
    """Fetch a language model; `out` gets its pin, and the tokenizer that all sizes share.

    Raises UserError where its own tokenizer is another.
    """
    import shutil

    from vlmlaw.tokenizers import demand_same_tokens

    patterns = (*CONFIG_FILES, *WEIGHT_FILES, *TOKENIZER_PATTERNS)
    planned = config_of(settings.source, settings.revision)
    folder, commit = fetch_files(settings, patterns)
    _demand_same_shape(settings.source, text_config(planned), text_config(read_config(folder)))
    demand_same_tokens(folder, tokenizer, settings=settings)
    with whole_folder(out) as partial:
        write_pin(pin_of(folder, settings, commit=commit), partial)
        for file in tokenizer.iterdir():
            shutil.copyfile(file, partial / file.name)


TOKENIZER_PATTERNS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.jinja")


def fetch_tokenizer_files(settings: ModelSettings) -> Path:
    """A folder with the files of a model's tokenizer."""
    return fetch_files(settings, (*CONFIG_FILES, *TOKENIZER_PATTERNS), weights=False)[0]


def open_model(folder: Path) -> Opened:
    """The model that a stage's folder pins, or that lies in it. Raises UserError where its files have changed."""
    path = folder / PIN
    if not path.exists():
        return Opened(folder, None)
    pin = read_pin(path)
    found = Path(pin.source)
    if pin.commit:
        found = download(pin.source, pin.commit, tuple(pin.files))
    for name, (size, digest) in pin.files.items():
        file = found / name
        same = file.is_file() and file.stat().st_size == size
        if not same or (size <= HASHED_AT_LOADING and _sha256(file) != digest):
            raise UserError(
                f"{file} is not what {path} was made from: missing, or another file. Put it back, or fetch the model "
                "again (`vlmlaw fetch`, or snakemake --forcerun with its rule), which retrains its cells."
            )
    return Opened(found, pin)


def origins_of(**folders: Path) -> dict[str, dict[str, str]]:
    """Source and commit of each model that was loaded, by its part in the VLM; of our own stages' there are none."""
    pins = {part: read_pin(folder / PIN) for part, folder in folders.items() if (folder / PIN).exists()}
    return {part: {"source": pin.source, "commit": pin.commit} for part, pin in pins.items()}


def fetch_files(settings: ModelSettings, patterns: Sequence[str], *, weights: bool = True) -> tuple[Path, str]:
    """The model's folder, downloaded where it is of the hub, and its commit. Raises UserError: unsafe or incomplete."""
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


def _demand_same_shape(source: str, planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises UserError where the model is not what the experiment was planned with."""
    wrong = {key: value for key, value in planned.items() if key in found and found[key] != value}
    if wrong:
        told = ", ".join(f"{key} {value} but has {found[key]}" for key, value in wrong.items())
        raise UserError(
            f"{source} was planned with {told}: the table of shapes (models.json) is wrong, or the revision "
            "is another. The model's own config.json is here now and goes before the table; start again."
        )


def pin_of(folder: Path, settings: ModelSettings, *, commit: str, **more: Any) -> Pin:
    names = [path.name for pattern in (*CONFIG_FILES, *WEIGHT_FILES) for path in sorted(folder.glob(pattern))]
    files = {name: ((folder / name).stat().st_size, _sha256(folder / name)) for name in names}
    return Pin(
        source=settings.source,
        commit=commit,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
        files=files,
        **more,
    )


def write_pin(pin: Pin, folder: Path) -> None:
    (folder / PIN).write_text(json.dumps(asdict(pin), indent=1), encoding="utf-8")


def read_pin(path: Path) -> Pin:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Pin(**fields | {"files": {name: (int(size), sha) for name, (size, sha) in fields["files"].items()}})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not what `vlmlaw fetch` writes ({error!r}); fetch the model again.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
