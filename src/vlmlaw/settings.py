"""Strict settings: a mapping read from YAML or JSON becomes a frozen dataclass, or a message that says what is wrong.

A dataclass's annotations are its schema. Ranges stand in a field's metadata (see `number`), defaults in the dataclass.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from vlmlaw.errors import UserError

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}


def number(
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field that holds a number (or numbers) within these bounds."""
    bounds = {"least": least, "above": above, "most": most}
    return dataclasses.field(default=default, metadata={key: b for key, b in bounds.items() if b is not None})


def choice(*words: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that holds one of these words."""
    return dataclasses.field(default=default, metadata={"words": words})


def choices(*words: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that holds a list of some of these words."""
    return dataclasses.field(default=default, metadata={"each_of_words": words})


def passive(field: Any) -> Any:
    """The field, marked as one that cannot change a stage's result: `to_json` leaves it out."""
    field.metadata = types.MappingProxyType({**field.metadata, "passive": True})
    return field


def passive_names(cls: type) -> set[str]:
    """The names of a settings class's passive fields."""
    return {name for name, field in _fields(cls).items() if field.metadata.get("passive")}


def build(cls: type[T], mapping: Any, *, where: str) -> T:
    """An instance of the dataclass `cls`. Raises UserError: unknown or missing key, wrong type, out of range."""
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: found {_shown(mapping)}; expected a section with {', '.join(_fields(cls))}.")
    known = _fields(cls)
    unknown = [key for key in mapping if key not in known]
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; the keys there are {', '.join(known)}.")
    missing = [name for name, field in known.items() if name not in mapping and _required(field)]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} is missing; add it.")
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    values = {}
    for name, value in mapping.items():
        values[name] = _convert(value, hints[name], where=f"{where}.{name}")
        _check(values[name], known[name].metadata, where=f"{where}.{name}")
    try:
        return cls(**values)
    except UserError as error:  # of what the section checks by itself
        raise UserError(f"{where}: {error}") from error


def to_json(settings: Any) -> str:
    """The settings as one line of JSON that is the same however the file orders them; passive fields are left out."""
    return json.dumps(as_data(settings, passive_too=False), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(cls: type[T], text: str, *, where: str = "--settings") -> T:
    """The inverse of `to_json`. Raises UserError where the text is no JSON or does not fit `cls`."""
    try:
        mapping = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error}); expected what a rule passes.") from error
    return build(cls, mapping, where=where)


def as_data(value: Any, *, passive_too: bool = True) -> Any:
    """Settings as plain dictionaries, lists and scalars."""
    if dataclasses.is_dataclass(value):
        kept = [f for f in dataclasses.fields(value) if passive_too or not f.metadata.get("passive")]
        return {f.name: as_data(getattr(value, f.name), passive_too=passive_too) for f in kept}
    if isinstance(value, Mapping):
        return {str(key): as_data(item, passive_too=passive_too) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_data(item, passive_too=passive_too) for item in value]
    return value


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    """The value as the annotation wants it: nested sections and lists too, an int where a float is asked for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        if dataclasses.is_dataclass(arguments[0]) and isinstance(value, Mapping):
            return _convert(value, _by_source(arguments, value, where=where), where=where)
        fitting = [kind for kind in arguments if isinstance(kind, type) and type(value) is kind]
        return _convert(value, (fitting or [kind for kind in arguments if kind is not types.NoneType])[0], where=where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where=where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: found {_shown(value)}; expected a list.")
        return tuple(_convert(item, arguments[0], where=f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: found {_shown(value)}; expected names with their values.")
        return {str(key): _convert(item, arguments[1], where=f"{where}.{key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{where}: found {_shown(value)}; expected {WORDS[hint]}.{_yaml_hint(value, hint)}")
    return value


def _by_source(kinds: tuple[Any, ...], value: Mapping[str, Any], *, where: str) -> Any:
    """Which of these sections it is, by its key `source`: the one that has this word, else the one for any text.

    A section without that key is the one that needs none. Raises UserError for a word that no section has.
    """
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    words = {word: kind for kind in kinds for word in _source_words(kind)}
    for_any_text = [kind for kind in kinds if "source" in _fields(kind) and not _source_words(kind)]
    needing_none = [kind for kind in kinds if "source" not in _fields(kind) or not _required(_fields(kind)["source"])]
    if "source" not in value:
        return (needing_none or list(kinds))[0]
    found = value["source"]
    if not isinstance(found, str) or not (found in words or for_any_text):
        raise UserError(f"{where}.source: found {_shown(found)}; expected one of {', '.join(words)}.")
    return words.get(found) or for_any_text[0]


def _source_words(kind: type) -> tuple[str, ...]:
    field = _fields(kind).get("source")
    return () if field is None else field.metadata.get("words", ())


def _check(value: Any, bounds: Mapping[str, Any], *, where: str) -> None:
    """Raises UserError unless the value, or each number in it, is within the field's bounds."""
    if "words" in bounds and value not in bounds["words"]:
        raise UserError(f"{where}: found {value!r}; expected one of {', '.join(bounds['words'])}.")
    for item in value if "each_of_words" in bounds else ():
        if item not in bounds["each_of_words"]:
            raise UserError(f"{where}: found {item!r}; expected some of {', '.join(bounds['each_of_words'])}.")
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,):
        if type(item) not in (int, float):
            continue
        wanted = [
            f"{word} {bounds[key]:g}"
            for key, word in (("least", "at least"), ("above", "above"), ("most", "at most"))
            if key in bounds
        ]
        good = math.isfinite(item)
        good = good and item >= bounds.get("least", item) and item <= bounds.get("most", item)
        if not (good and ("above" not in bounds or item > bounds["above"])):
            raise UserError(f"{where}: found {item!r}; expected a number {' and '.join(wanted) or 'that is finite'}.")


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _yaml_hint(value: Any, hint: type) -> str:
    """Where YAML read a number as text, say how to write it."""
    if hint is not float or not isinstance(value, str):
        return ""
    try:
        number_read = float(value)
    except ValueError:
        return ""
    mantissa, _, exponent = f"{number_read:e}".partition("e")
    return f" YAML reads this as text; write {float(mantissa)}e{int(exponent):+d}."
