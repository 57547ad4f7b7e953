"""Pins of pretrained models: commit, size and SHA-256 of each file, written when fetched and compared when opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError
from vlmlaw.hub.download import download
from vlmlaw.runtime.whole_files import sha256_of

if TYPE_CHECKING:
    from vlmlaw.hub.settings import ModelSettings

PIN = "model.json"
CONFIG_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
HASHED_AT_LOADING = 16 * 2**20  # bytes; larger files are hashed when fetched, and compared by size afterwards


@dataclass(frozen=True)
class Pin:
    """The identity of a pretrained model: its source, and the size and SHA-256 of each file that is read."""

    source: str
    commit: str  # of the hub; "" for a local folder
    dtype: str
    trust_remote_code: bool
    files: Mapping[str, tuple[int, str]]
    image_mean: Sequence[float] = field(default_factory=list)  # of a vision tower
    image_std: Sequence[float] = field(default_factory=list)
    image_size: int | None = None  # of a vision tower, if its position embeddings are to be interpolated


@dataclass(frozen=True)
class Opened:
    """A model's folder, checked against its pin; models made by our own stages have no pin."""

    folder: Path
    pin: Pin | None

    @property
    def trust_remote_code(self) -> bool:
        return self.pin is not None and self.pin.trust_remote_code


def open_model(folder: Path) -> Opened:
    """Open the model that a stage's folder pins or contains. Raises UserError if its files have changed."""
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
        if not same or (size <= HASHED_AT_LOADING and sha256_of(file) != digest):
            raise UserError(
                f"{file} is not what {path} was made from: missing, or another file. Put it back, or fetch the model "
                "again (`vlmlaw fetch`, or snakemake --forcerun with its rule), which retrains its cells."
            )
    return Opened(found, pin)


def origins_of(**folders: Path) -> dict[str, dict[str, str]]:
    """Return source and commit of each pinned model by its part in the VLM; models of our own stages are left out."""
    pins = {part: read_pin(folder / PIN) for part, folder in folders.items() if (folder / PIN).exists()}
    return {part: {"source": pin.source, "commit": pin.commit} for part, pin in pins.items()}


def pin_of(folder: Path, settings: ModelSettings, *, commit: str, **more: Any) -> Pin:
    """Pin the files of a model in `folder`; `more` are the fields of a vision tower."""
    names = [path.name for pattern in (*CONFIG_FILES, *WEIGHT_FILES) for path in sorted(folder.glob(pattern))]
    files = {name: ((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}
    return Pin(
        source=settings.source,
        commit=commit,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
        files=files,
        **more,
    )


def write_pin(pin: Pin, folder: Path) -> None:
    fields = {name: value for name, value in asdict(pin).items() if value is not None}
    (folder / PIN).write_text(json.dumps(fields, indent=1), encoding="utf-8")


def read_pin(path: Path) -> Pin:
    """Read a pin. Raises UserError if the file is not one."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Pin(**fields | {"files": {name: (int(size), sha) for name, (size, sha) in fields["files"].items()}})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not what `vlmlaw fetch` writes ({error!r}); fetch the model again.") from error
