"""Convert LLaVA's data (conversations as JSON, images in a folder or a .zip archive) to the project's format.

Every image is decoded, made a square and stored once for the whole grid. A record that cannot be learned from, or whose
image is missing or broken, is an error or, within the user's limit, is left out and listed in `skipped.json`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.data.framing import square
from vlmlaw.data.image_file import UnreadableImage, open_rgb
from vlmlaw.data.image_folder import fault_of
from vlmlaw.data.record import Record, place_of
from vlmlaw.data.shards import ShardWriter, encoded
from vlmlaw.errors import UserError
from vlmlaw.hub.download import download
from vlmlaw.runtime.progress import progress
from vlmlaw.runtime.whole_files import whole_folder

if TYPE_CHECKING:
    from vlmlaw.data.settings import LlavaFile, SplitSettings

SKIPPED = "skipped.json"
IMAGES_AHEAD = 64  # images in memory for each thread
FORMAT = "JPEG"


@dataclass(frozen=True)
class Broken:
    """A record that cannot be used, and why."""

    id: str
    reason: str


class Pictures:
    """The images of one file of conversations by name, from a folder or a .zip archive."""

    def __init__(self, place: Path):
        self._place = place

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        if self._place.is_dir():
            return None
        try:
            return zipfile.ZipFile(self._place)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{self._place}: expected a folder of images or a .zip archive ({error}).") from error

    @cached_property
    def _archived(self) -> frozenset[str]:
        return frozenset(self._archive.namelist()) if self._archive else frozenset()

    def fault(self, name: str) -> str:
        """Say why there is no image of this name, as the end of a sentence; "" if there is one."""
        if self._archive:
            return "" if name in self._archived else "is missing"
        return fault_of(self._place, name)

    def read(self, name: str) -> bytes:
        """Return the content of an image's file. Raises UnreadableImage if it cannot be read."""
        try:
            return self._archive.read(name) if self._archive else (self._place / name).read_bytes()
        except Exception as error:  # zlib, lzma, bz2, zipfile and the file system raise errors of their own
            raise UnreadableImage(f"cannot be read ({error or type(error).__name__})") from error


def prepare_split(out: Path, *, settings: SplitSettings, n_threads: int = 1) -> None:
    """Write the dataset of one split to `out`: images as squares, records, and the list of records left out.

    Raises UserError if more records are broken than the settings allow, with the first one too many and its file.
    """
    tally = _Tally(settings.skip_at_most)
    with whole_folder(out) as folder:
        # One shard for any number of images, because the workflow names each file that a later job reads.
        with ShardWriter(folder, image_format=FORMAT, images_per_shard=2**62) as writer:
            folders: dict[tuple[str, ...], str] = {}  # files of a training split that share images store each once
            for name, file in settings.files.items():
                suite = name if settings.one_question_each else ""
                prefix = (
                    name
                    if suite
                    else folders.setdefault((file.images, file.repository, file.revision, file.fit or ""), name)
                )
                _add_file(writer, file, suite, prefix, settings=settings, tally=tally, n_threads=n_threads)
        tally.require_some(out)
        (folder / SKIPPED).write_text(json.dumps(tally.as_data(), indent=1), encoding="utf-8")


def _add_file(
    writer: ShardWriter,
    file: LlavaFile,
    suite: str,
    prefix: str,
    *,
    settings: SplitSettings,
    tally: _Tally,
    n_threads: int,
) -> None:
    """Add one file's records, and their images under names with this prefix."""
    conversations, images = _located(file)
    rows = read_rows(conversations, n_expected=file.records)
    tally.begin(conversations, len(rows))
    pictures = Pictures(images) if images else None
    records: list[Record] = []
    for position, row in enumerate(rows):
        found = read_record(row, position, source=str(conversations))
        if isinstance(found, Record) and (reason := _missing(found, pictures, images)):
            found = Broken(found.id, reason)
        if isinstance(found, Broken):
            tally.skip(found)
        else:
            records.append(found)
    names = list(dict.fromkeys(name for record in records for name in record.images))
    broken = (
        _add_images(writer, pictures, names, prefix, settings=_of_file(file, settings), n_threads=n_threads)
        if pictures
        else {}
    )
    for record in records:
        if damaged := next((name for name in record.images if name in broken), None):
            tally.skip(Broken(record.id, f"its image {images}/{damaged} {broken[damaged]}"))
            continue
        for part in record.each_question() if settings.one_question_each else [record]:
            stored = part.with_images([_stored_name(name, prefix) for name in part.images])
            writer.add_record(replace(stored, suite=suite))
            tally.n_kept += 1


def _of_file(file: LlavaFile, settings: SplitSettings) -> SplitSettings:
    return settings if file.fit is None else replace(settings, fit=file.fit)


def _missing(record: Record, pictures: Pictures | None, place: Path | None) -> str:
    """Say why an image of the record cannot be used; "" if all can."""
    if not record.images:
        return ""
    if pictures is None:
        return "it has an image, but the file's section in the experiment names no `images`"
    faults = ((name, pictures.fault(name)) for name in record.images)
    return next((f"its image {place}/{name} {fault}" for name, fault in faults if fault), "")


def read_record(row: Any, position: int, *, source: str) -> Record | Broken:
    """Read one record of LLaVA's JSON, or say why it cannot be used.

    As in LLaVA's own reader, a first turn of the assistant, which answers nothing, is dropped.
    """
    if not isinstance(row, dict):
        return Broken(f"#{position}", f"found {str(row)[:60]!a}, expected an object with `conversations`")
    row = {"id": f"#{position}", **row}
    turns = row.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and turns[0].get("from") == "gpt":
        row = row | {"conversations": turns[1:]}
    try:
        return Record.from_json(row, source=source)
    except UserError as error:
        reason = str(error).removeprefix(place_of(row["id"], source)).removeprefix(": ")
        return Broken(str(row["id"])[:80], reason.rstrip("."))


def _stored_name(name: str, prefix: str) -> str:
    """Return an image's name among those of all files."""
    return f"{prefix}/{name}" if prefix else name


def _add_images(
    writer: ShardWriter,
    pictures: Pictures,
    names: list[str],
    prefix: str,
    *,
    settings: SplitSettings,
    n_threads: int,
) -> dict[str, str]:
    """Add the images in order; return those that cannot be read, and why."""

    def make(name: str) -> bytes | str:
        try:
            image = open_rgb(pictures.read(name))
            framed = square(image, settings.image_px, fit=settings.fit, pad_color=settings.pad_color)
            return encoded(framed, FORMAT)
        except UnreadableImage as error:
            return str(error)

    names = [name for name in names if not writer.has(_stored_name(name, prefix))]
    broken = {}
    with ThreadPoolExecutor(n_threads) as pool:  # Pillow releases Python's global lock
        made = _mapped(pool, make, names, at_once=IMAGES_AHEAD * n_threads)
        for name, result in zip(names, progress(made, len(names), "images"), strict=True):
            if isinstance(result, str):
                broken[name] = result
            else:
                writer.add_encoded(_stored_name(name, prefix), result)
    return broken


def _mapped(pool: ThreadPoolExecutor, function: Any, items: Iterable[str], *, at_once: int) -> Iterator[Any]:
    """Map like pool.map, with at most `at_once` results in memory."""
    left = iter(items)
    while part := list(islice(left, at_once)):
        yield from pool.map(function, part)


def _located(file: LlavaFile) -> tuple[Path, Path | None]:
    """Return the paths of the conversations and their images, downloaded if they are on the hub."""
    folder = Path()
    if file.repository:
        wanted = [name for name in (file.conversations, file.images) if name]
        folder = download(file.repository, file.revision, wanted, kind="dataset")
        print(f"{file.repository}, revision {file.revision}: commit {folder.name}")
    return folder / file.conversations, folder / file.images if file.images else None


def read_rows(path: Path, *, n_expected: int | None = None) -> list[Any]:
    """Read the rows of a JSON list, of JSON lines (.jsonl) or of a table (.parquet).

    Raises UserError if the file holds no rows, or another number of them than expected.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _json_rows(path)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: found {str(rows)[:60]!a}; expected a list of LLaVA's records, at least one.")
    if n_expected is not None and len(rows) != n_expected:
        raise UserError(
            f"{path} holds {len(rows)} records; the experiment says {n_expected}. It may be cut off or another "
            "version; get it again, or correct `records`."
        )
    return rows


def _parquet_rows(path: Path) -> list[Any]:
    """Read the rows of a parquet file with a column for each key; what a row lacks is None."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: parquet needs pyarrow; install it by `pip install 'vlmlaw[parquet]'`.") from error
    try:
        return parquet.read_table(path).to_pylist()
    except Exception as error:  # for a damaged file pyarrow raises errors without a common class
        raise UserError(f"{path} cannot be read as parquet ({error}); expected LLaVA's records.") from error


def _json_rows(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_lines = path.suffix.lower() == ".jsonl"
        return [json.loads(line) for line in text.split("\n") if line.strip()] if is_lines else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); expected a list of LLaVA's records.") from error


class _Tally:
    """Counts the records left out, against the share that the user allows."""

    def __init__(self, skip_at_most: float):
        self._share = skip_at_most
        self._source, self._n_records, self._n_allowed = Path(), 0, 0
        self.n_kept = 0
        self._skipped: list[dict[str, str]] = []

    def begin(self, source: Path, n_records: int) -> None:
        self._source = source
        self._n_records += n_records
        self._n_allowed = int(self._share * self._n_records)

    def skip(self, broken: Broken) -> None:
        """Count a record as left out. Raises UserError if that is one too many."""
        self._skipped.append({"id": broken.id, "file": self._source.name, "reason": broken.reason})
        if len(self._skipped) > self._n_allowed:
            limit = f"{self._n_allowed} of {self._n_records} may be left out (skip_at_most: {self._share:g})"
            raise UserError(
                f"record {broken.id!a} of {self._source} cannot be used: {broken.reason}. {limit}. Fix the data, or "
                "set data.skip_at_most to the share of records that may be left out."
            )

    def require_some(self, out: Path) -> None:
        if not self.n_kept:
            raise UserError(f"no record of {out.name} can be used; there is nothing to learn from.")

    def as_data(self) -> dict[str, Any]:
        return {"records": self._n_records, "kept": self.n_kept, "skipped": self._skipped}
