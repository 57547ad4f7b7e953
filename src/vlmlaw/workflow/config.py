"""Find and merge the files that an experiment is read from: params.yaml, a whole experiment, overlays, `--config`.

Snakemake merges `--configfile` and `--config` into each other and over params.yaml, key by key. A file with a `name` is
a whole experiment, without params.yaml; one without a `name` is laid over params.yaml. The same is done here, but files
and texts are read by the project's own reader: Snakemake's reads each value within a section of `--config` as text,
takes the last of two equal keys, and runs code in a file that asks for it (`__use_yte__`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.experiment.path_checks import named_tables
from vlmlaw.experiment.yaml_file import read_yaml, read_yaml_text

DEFAULT = "params.yaml"
MEASUREMENTS = "measurements"  # a key of --config: a table of the user's own, to which a law is fitted
TEMPLATE = "__use_yte__"  # a key of files that Snakemake runs as a template before it reads them
ONCE = {"--config": ("--config", "-C"), "--configfile": ("--configfile", "--configfiles")}


@dataclass(frozen=True)
class Source:
    """Where the experiment comes from: names for messages, whether params.yaml is read, and the merged content."""

    name: str
    text: str
    reads_default: bool
    content: Mapping[str, Any]


def source_of(
    config: Mapping[str, Any], *, files: Sequence[Path], given: Mapping[str, Any], texts: Sequence[str] = ()
) -> Source:
    """Read Snakemake's configuration by the project's own reader, and say what is read, merged or left out.

    `config` is Snakemake's, `files` are those of `--configfile`, `given` are the values of `--config`, and `texts` are
    these as typed. A `config` that holds more belongs to another workflow that uses this one as a module, and is taken
    as it is. Raises UserError for a file that is no mapping, for repeated keys and options, and for values that YAML
    reads differently than they look.
    """
    given = {key: value for key, value in {**given, **_typed(texts, given)}.items() if key != MEASUREMENTS}
    files = [_shortest(file) for file in files]
    parts = {str(file): _checked(file) for file in files}
    known = {*given, *(key for part in parts.values() for key in part)}
    if any(key not in known and key != MEASUREMENTS for key in config):
        said = "the configuration of a workflow that uses this one as a module"
        return Source("config", said, False, {key: value for key, value in config.items() if key != MEASUREMENTS})
    whole = [name for name, part in parts.items() if "name" in part]
    if not parts and "name" in given and "grid" in given:
        return Source("--config", "what --config says", False, given)
    content: Mapping[str, Any] = {}
    if whole:
        if len(whole) > 1:
            raise UserError(
                f"--configfile: {' and '.join(whole)} are whole experiments, each with a `name`; name one, and files "
                "without a `name` to be laid over it."
            )
        first, *others = [*whole, *(name for name in parts if name not in whole)]
        left_out = f"; {DEFAULT} is left out" if Path(DEFAULT).exists() and DEFAULT not in parts else ""
        for part in (parts[first], *(parts[name] for name in others), given):
            content = _laid_over(content, part)
        return Source(first, _said(first, {name: parts[name] for name in others}, given) + left_out, False, content)
    if not Path(DEFAULT).exists():
        over = f" over which {', '.join(parts) or '--config'} could be laid" if known else ""
        raise UserError(
            f"there is no {DEFAULT} here{over}; name a whole experiment (it has a `name`) by --configfile, or run this "
            "where params.yaml is."
        )
    for part in (_checked(Path(DEFAULT)), *parts.values(), given):
        content = _laid_over(content, part)
    return Source(DEFAULT, _said(DEFAULT, parts, given), True, content)


def refuse_repeated_options(arguments: Sequence[str]) -> None:
    """Raise UserError if the command line repeats an option of which Snakemake reads the last one only."""
    for option, names in ONCE.items():
        found = [word for word in arguments if word.partition("=")[0] in names]
        if len(found) > 1:
            raise UserError(
                f"{option} is there {len(found)} times, and Snakemake reads the last alone; write it once, with all "
                f"that it is to say behind it: {option} FIRST SECOND."
            )


def measurements_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's own tables in the configuration by the names of their results folders; {} if there are none.

    One file, or a list of files, each as FILE or NAME=FILE. Raises UserError for a name that cannot be a folder's.
    """
    given = config.get(MEASUREMENTS)
    if given is None:
        return {}
    tables = list(given) if isinstance(given, list | tuple) else [given]
    wrong = [table for table in tables if not (isinstance(table, str) and table)]
    if wrong or not tables:
        raise UserError(
            f"--config {MEASUREMENTS}: found {given!r}; expected a table, as in {MEASUREMENTS}=mine.csv, or several, "
            f"as in {MEASUREMENTS}='[a.csv, b.csv]'"
        )
    try:
        return named_tables(tables)
    except UserError as error:
        raise UserError(f"--config {error}") from None


def _typed(texts: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `--config`, each read as YAML from its text; values from a Python caller are kept."""
    found: dict[str, Any] = {}
    for key, _, text in (entry.partition("=") for entry in texts):
        if key in found:
            raise UserError(f"--config: the key {key!r} is there twice; remove one of them.")
        read = key != MEASUREMENTS and _as_typed(given.get(key))
        found[key] = read_yaml_text(text, source=f"--config {key}") if read else given.get(key)
    return found


def _as_typed(value: Any, *, inside: bool = False) -> bool:
    """Return whether Snakemake can have read this from a text: a scalar, or text alone in lists and sections."""
    if isinstance(value, Mapping):
        return all(_as_typed(item, inside=True) for item in value.values())
    if isinstance(value, list):
        return all(_as_typed(item, inside=True) for item in value)
    return isinstance(value, str) or not inside


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge both key by key; a list or a value replaces the former one. The names 14 and '14' are the same."""
    result = dict(base)
    names = {str(key): key for key in result}
    for key, value in over.items():
        own = names.get(str(key), key)
        both = isinstance(value, Mapping) and isinstance(result.get(own), Mapping)
        result[own] = _laid_over(result[own], value) if both else value
    return result


def _said(first: str, overlays: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> str:
    laid = [f"{name} ({', '.join(_keys(part))})" for name, part in overlays.items()]
    laid += [f"--config ({', '.join(_keys(given))})"] if given else []
    return first + (f", and laid over it: {', then '.join(laid)}" if laid else "")


def _keys(part: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield the settings of an overlay as `section.key`."""
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
    if TEMPLATE in content:
        raise UserError(f"{path}: it is a template ({TEMPLATE}); a file is read as it stands, so write its values out.")
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
    """Return the path relative to the working directory if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
