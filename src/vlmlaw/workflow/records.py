"""Records beside results: the parameters of the job, the commit, and the hash of every file that it made.

A record travels with its result, so that a clone can tell what a file is and whether it is still what its job made.
`training.json` of a cell has `training.record.json`, a folder such as `encoder/` has `encoder/record.json`.
"""

import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmlaw import __version__
from vlmlaw.runtime.git import commit
from vlmlaw.runtime.whole_files import sha256_of, whole_file

NAME = "record.json"
GIVEN = ("settings", "code", "upstream")  # the parameters of the workflow that a job's result depends on
MADE_FROM = ("inputs", "content", "at")
SEAL = "seal"
DEPTH = 4  # levels of inputs of inputs in a record: a cell, its features, the encoder, the pictures


def add_options(parser: Any) -> None:
    """Add the options by which a rule has a verb write a record of its result; they come before the verb."""
    parser.add_argument(
        "--record", type=Path, metavar="PATH", help="write a record of what the verb made, and from what"
    )
    parser.add_argument("--code", metavar="HASH", help="for the record: version of the stage's code")
    parser.add_argument("--upstream", metavar="HASH", help="for the record: hash of what the inputs were made from")
    parser.add_argument(
        "--from", nargs="*", default=[], metavar="NAME=FILE", dest="made_from", help="for the record: its inputs"
    )
    parser.add_argument(
        "--read", nargs="*", type=Path, default=[], metavar="FILE", help="for the record: your own files that it reads"
    )
    parser.add_argument(
        "--made", nargs="*", default=[], metavar="GLOB", help="for the record: what was made, where not all of --out"
    )


def inputs_of(args: Namespace) -> dict[str, dict[str, Any]]:
    """Describe what a verb is about to read: other results by their records, the user's own files by content."""
    return {
        "inputs": {name: known for name, path in _inputs(args.made_from).items() if (known := _known(path))},
        "read": {str(path): _identity(path) for path in args.read},
    }


def write(args: Namespace, *, began_with: Mapping[str, Any] | None = None) -> None:
    """Write the record of a verb that ended well; `began_with` is what `inputs_of` returned at its start."""
    made_from = began_with or inputs_of(args)
    record, out = args.record, Path(args.out)
    folder = out if out.is_dir() else out.parent
    chosen = [path for pattern in args.made for path in sorted(folder.glob(pattern))] or [out]
    files = {
        os.path.relpath(path, record.parent): _identity(path)
        for part in chosen
        for path in _files(part)
        if path != record and not path.name.startswith(".")
    }
    content = {
        "verb": args.verb,
        **{name: getattr(args, name, None) for name in GIVEN},
        "inputs": made_from["inputs"],
        **({"read": made_from["read"]} if made_from["read"] else {}),
        "files": files,
        "content": content_version(files),
        "commit": commit(),
        "vlmlaw": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with whole_file(record) as partial:
        partial.write_text(json.dumps(content | {SEAL: _seal(content)}, indent=1))


def read(path: Path) -> dict[str, Any] | None:
    """Read a record; None if it is missing, cannot be read or was altered after it was written."""
    try:
        record = json.loads(path.read_text())
        whole = isinstance(record["files"], dict) and all(name in record for name in (*GIVEN, *MADE_FROM))
        return record if whole and record.get(SEAL) in (None, _seal(record)) else None  # None: written by an old vlmlaw
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _seal(record: Mapping[str, Any]) -> str:
    """Return a hash of all that a record says, which shows whether it was altered."""
    text = json.dumps({key: value for key, value in record.items() if key != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_made(args: Namespace) -> bool:
    """Return whether the verb's result exists, is whole, and by its record has the same settings, code and inputs."""
    record = read(args.record) if args.record else None
    if record is None or any(record[name] != getattr(args, name, None) for name in GIVEN):
        return False
    expected = inputs_of(args)
    same_inputs = {name: part["content"] for name, part in record["inputs"].items()} == {
        name: part["content"] for name, part in expected["inputs"].items()
    }
    same_files = all(_is_identity_of(args.record.parent / name, known) for name, known in record["files"].items())
    return same_inputs and same_files and record.get("read", {}) == expected["read"]


def _is_identity_of(path: Path, identity: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == identity["bytes"] and sha256_of(path) == identity["sha256"]


def record_of(result: Path) -> Path | None:
    """Return the record of a file or folder of results; None if it has none."""
    candidates = [
        result / NAME,
        result.parent / f"{result.stem}.record.json",
        result.parent / "training.record.json",
        result.parent / NAME,
    ]
    return next((path for path in candidates if path.is_file()), None)


def content_version(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one short hash of all files of a record: the version of their content."""
    lines = (f"{name} {identity['sha256']}" for name, identity in sorted(files.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _identity(path: Path) -> dict[str, Any]:
    """Return hash and size of a file, and its time, which saves this machine from hashing it again."""
    status = path.stat()
    return {"sha256": sha256_of(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _files(path: Path) -> list[Path]:
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


def _inputs(made_from: Iterable[str]) -> dict[str, Path]:
    """Parse `NAME=FILE FILE ...` as rules give it: the first file of each input, which stands for all of them."""
    named = (text.partition("=") for text in made_from)
    return {name.replace("_", "-"): Path(path) for name, equals, path in named if equals and path}


def _known(path: Path) -> dict[str, Any] | None:
    found = record_of(path)
    record = read(found) if found else None
    if record is None:
        return None
    kept = {name: record.get(name) for name in ("verb", *GIVEN, "content", "commit", "inputs")}
    kept |= {name: record[name] for name in ("read",) if name in record}
    whole = found is not None and found.name in (NAME, "training.record.json")
    return {"path": str(path.parent if whole else path)} | _pruned(kept, depth=DEPTH)


def _pruned(record: dict[str, Any], *, depth: int) -> dict[str, Any]:
    inputs = record.get("inputs") or {}
    kept = {name: _pruned(part, depth=depth - 1) for name, part in inputs.items()} if depth > 1 else {}
    return record | {"inputs": kept}


def walk(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every input of a record and their inputs, by name, each before its own inputs."""
    for name, part in inputs.items():
        yield name, part
        yield from walk(part.get("inputs") or {})


def files_read(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and identity of every file of the user's own that a result or its inputs were made from."""
    for part in (record, *(part for _, part in walk(record["inputs"]))):
        yield from part.get("read", {}).items()
