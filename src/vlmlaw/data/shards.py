"""The project's format on disk for images with conversations: its writer and its reader.

A dataset is a folder: images in tar shards (readable by any tar tool and by WebDataset), `index.npz` saying where in
which shard each image lies, and `conversations.json`, a list of records as in LLaVA's instruction data (record.py).
"""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmlaw.data.image_file import UnreadableImage, open_rgb
from vlmlaw.data.record import IMAGE_PLACEHOLDER, Record
from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import UNREADABLE

__all__ = ["IMAGE_PLACEHOLDER", "Dataset", "Record", "ShardWriter", "encoded"]

IMAGES_PER_SHARD = 4096
SUFFIX_OF_FORMAT = {"PNG": ".png", "JPEG": ".jpg"}


def encoded(image: Image.Image, image_format: str) -> bytes:
    """Encode the image as a file's content; PNG is lossless."""
    buffer = io.BytesIO()
    # Level 1 takes a third of the default's time and 5 % more bytes on the miniature's images.
    options = {"compress_level": 1} if image_format == "PNG" else {"quality": 95}
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


class ShardWriter:
    """Writes a dataset folder; used as a context manager, it closes the shards and writes the index.

    Writing a second image of the same name raises UserError.
    """

    def __init__(self, folder: Path, *, image_format: str = "PNG", images_per_shard: int = IMAGES_PER_SHARD):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._format, self._images_per_shard = image_format, images_per_shard
        self._names: dict[str, None] = {}  # in order
        self._places: list[tuple[int, int, int]] = []
        self._records: list[dict[str, Any]] = []
        self._tar: tarfile.TarFile | None = None

    def add_image(self, name: str, pixels: np.ndarray) -> None:
        """Store pixels_HWC (uint8) under `name`; PNG is lossless."""
        self.add_encoded(name, encoded(Image.fromarray(pixels), self._format))

    def add_encoded(self, name: str, image: bytes) -> None:
        """Store an image file of the writer's format under `name`."""
        if name in self._names:
            raise UserError(f"two images are called {name!r} in {self.folder}; records could not tell them apart.")
        shard, index_in_shard = divmod(len(self._names), self._images_per_shard)
        if index_in_shard == 0:
            self._close_shard()
            self._tar = tarfile.open(self.folder / f"images-{shard:05d}.tar", "w")  # noqa: SIM115 closed in _close_shard
        assert self._tar is not None
        info = tarfile.TarInfo(name + SUFFIX_OF_FORMAT[self._format])
        info.size = len(image)
        self._tar.addfile(info, io.BytesIO(image))
        padded = -info.size % tarfile.BLOCKSIZE
        self._places.append((shard, self._tar.offset - padded - info.size, info.size))
        self._names[name] = None

    def has(self, name: str) -> bool:
        """Return whether an image of this name has been stored."""
        return name in self._names

    def add_record(self, record: Record) -> None:
        self._records.append(record.to_json())

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        self._close_shard()
        if exc_type is None:
            places = np.array(self._places, dtype=np.int64).reshape(-1, 3)
            np.savez(self.folder / "index.npz", names=np.array(list(self._names), dtype=str), places=places)
            text = json.dumps(self._records, indent=0)  # ASCII, whatever is said
            (self.folder / "conversations.json").write_text(text, encoding="utf-8")


class Dataset:
    """Reads a dataset folder. Images are read by position, so processes and threads can share it.

    Conversations are read only on demand, because a training needs images alone and 665,000 records take 5 GB.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            with np.load(self.folder / "index.npz") as index:
                self.image_names: list[str] = index["names"].tolist()
                self._places = index["places"]
        except UNREADABLE as error:
            raise self._is_none(error) from error
        self._files: dict[int, int] = {}

    def _is_none(self, error: Exception) -> UserError:
        return UserError(
            f"{self.folder} is no dataset ({error}); expected conversations.json and index.npz as `vlmlaw data` writes "
            "them."
        )

    @cached_property
    def records(self) -> list[Record]:
        """All records. Raises UserError for an unreadable file, a broken record, or an image that no shard holds."""
        path = self.folder / "conversations.json"
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._is_none(error) from error
        if not isinstance(rows, list):
            raise self._is_none(ValueError(f"{path.name} holds a {type(rows).__name__} where a list was expected"))
        records = [Record.from_json(row, source=str(path)) for row in rows]
        for record in records:
            for name in record.images:
                if name not in self._row_of_image:
                    raise UserError(f"record {record.id!r} of {path} names image {name!r}, which no shard holds.")
        return records

    @cached_property
    def _row_of_image(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.image_names)}

    def image_row(self, record: Record) -> int:
        """Return the position of the record's first image in shard order, which is also its row in a feature cache."""
        assert record.image is not None
        return self._row_of_image[record.image]

    def image(self, row: int) -> np.ndarray:
        """Return pixels_HWC (uint8) of the image at position `row`. Raises UserError if it cannot be decoded."""
        shard, offset, size = (int(n) for n in self._places[row])
        path = self.folder / f"images-{shard:05d}.tar"
        try:
            if shard not in self._files:
                self._files[shard] = os.open(path, os.O_RDONLY)
            content = os.pread(self._files[shard], size, offset)
        except OSError as error:
            raise UserError(f"image {self.image_names[row]!r} in {path} cannot be read: {error}") from error
        try:
            return np.asarray(open_rgb(content))
        except UnreadableImage as error:
            raise UserError(f"image {self.image_names[row]!r} in {path} {error}; prepare the data again.") from error

    def images(self, rows: Iterable[int]) -> Iterator[np.ndarray]:
        return (self.image(row) for row in rows)
