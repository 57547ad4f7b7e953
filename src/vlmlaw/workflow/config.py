"""Which files an experiment is read from: params.yaml, whole experiments and overlays, and what is said about it.

Snakemake merges `--configfile` and `--config` into each other and over params.yaml, key by key. A file with a `name` is
a whole experiment, of which params.yaml is no part; one without is laid over params.yaml.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.experiment.path_checks import PART
from vlmlaw.experiment.yaml_file import read_yaml

DEFAULT = "params.yaml"
MEASUREMENTS = "measurements"  # of --config: a table of the user's own, whose law is fitted


@dataclass(frozen=True)
class Source:
    """Where the experiment comes from: for messages, and whether params.yaml is read."""

    name: str
    text: str
    reads_default: bool


def source_of(config: Mapping[str, Any], *, files: Sequence[Path], given: Mapping[str, Any]) -> Source:
    """Check the files that Snakemake reads, and say what is read, merged or left out.

    `config` is Snakemake's, `files` those of `--configfile`, `given` what `--config` says. A `config` that holds more
    than those is another workflow's, which uses this one as a module. Raises UserError for a file that is no mapping,
    with repeated keys or with values that YAML reads differently than they look.
    """
    given = {key: value for key, value in given.items() if key != MEASUREMENTS}
    files = [_shortest(file) for file in files]
    parts = {str(file): _checked(file) for file in files}
    known = {*given, *(key for part in parts.values() for key in part)}
    if any(key not in known and key != MEASUREMENTS for key in config):
        return Source("config", "the configuration of a workflow that uses this one as a module", reads_default=False)
    whole = [name for name, part in parts.items() if "name" in part]
    if not parts and "name" in given and "grid" in given:
        return Source("--config", "what --config says", reads_default=False)
    if whole:
        first, *others = [*whole[-1:], *(name for name in parts if name != whole[-1])]
        left_out = f"; {DEFAULT} is left out" if Path(DEFAULT).exists() and DEFAULT not in parts else ""
        return Source(first, _said(first, {name: parts[name] for name in others}, given) + left_out, False)
    if not Path(DEFAULT).exists():
        over = f" over which {', '.join(parts) or '--config'} could be laid" if known else ""
        raise UserError(
            f"there is no {DEFAULT} here{over}; name a whole experiment (it has a `name`) by --configfile, or run this "
            "where params.yaml is."
        )
    _checked(Path(DEFAULT))
    return Source(DEFAULT, _said(DEFAULT, parts, given), reads_default=True)


def measurements_of(config: dict[str, Any]) -> tuple[str | None, str]:
    """Take the user's own table out of the configuration: its path, and what names its folder of results.

    Raises UserError for a name that cannot be a folder's.
    """
    table = config.pop(MEASUREMENTS, None)
    if table is None:
        return None, ""
    name = Path(str(table)).stem
    if not PART.fullmatch(name) or not isinstance(table, str):
        raise UserError(
            f"--config {MEASUREMENTS}: found {table!r}; its name is to name a folder of results. Use letters, digits, "
            "'_', '-' and '.': rename the file, or link to it."
        )
    return table, name


def _said(first: str, overlays: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> str:
    laid = [f"{name} ({', '.join(_keys(part))})" for name, part in overlays.items()]
    laid += [f"--config ({', '.join(_keys(given))})"] if given else []
    return first + (f", and laid over it: {', then '.join(laid)}" if laid else "")


def _keys(part: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """The settings in an overlay, as `section.key`."""
    for key, value in part.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _checked(path: Path) -> Mapping[str, Any]:
    content = _read_json(path) if path.suffix == ".json" else read_yaml(path)
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: found {str(content)[:60]!r}; expected sections of an experiment, such as `training:`."
        )
    return content


def _read_json(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ValueError(f"the key {twice[0]!r} is there twice; remove one of them")
        return dict(pairs)

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} as JSON: {error}") from error


def _shortest(path: Path) -> Path:
    """The path as it is from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
