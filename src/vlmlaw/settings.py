"""Strict settings: convert a mapping from YAML or JSON to a frozen dataclass, or raise an error with all faults.

A dataclass's annotations are its schema. Ranges stand in a field's metadata (see `number`), defaults in the dataclass.
pydantic's core (https://docs.pydantic.dev/latest/api/pydantic_core_schema/) does the checking; pydantic itself would
derive the same schema from the annotations, but takes four times as long to start.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from vlmlaw.errors import UserError

if TYPE_CHECKING:
    from pydantic_core import CoreSchema, ErrorDetails, SchemaValidator

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
BOUNDS = {"least": ("ge", "at least"), "above": ("gt", "above"), "most": ("le", "at most")}
INT64 = 2**63 - 1  # the largest whole number of torch's and numpy's arrays, seeds included
MISSING = object()  # stands for an absent key, so that the error states the expected value


def number(
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    or_word: str | None = None,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field that holds a number (or numbers) within these bounds, or this word."""
    bounds = {"least": least, "above": above, "most": most, "or_word": or_word}
    return dataclasses.field(default=default, metadata={key: b for key, b in bounds.items() if b is not None})


def truth(*, or_word: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that holds true, false or this word."""
    return dataclasses.field(default=default, metadata={"or_word": or_word})


def choice(*words: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that holds one of these words."""
    return dataclasses.field(default=default, metadata={"words": words})


def choices(*words: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that holds a list of some of these words."""
    return dataclasses.field(default=default, metadata={"words": words})


def passive(field: Any) -> Any:
    """The field, marked as one that cannot change a stage's result: `to_json` leaves it out."""
    field.metadata = types.MappingProxyType({**field.metadata, "passive": True})
    return field


def later(field: Any) -> Any:
    """The field, marked as one that came later: `to_json` leaves it out at its default, so that results stay."""
    field.metadata = types.MappingProxyType({**field.metadata, "later": True})
    return field


def passive_names(cls: type) -> set[str]:
    """The names of a settings class's passive fields."""
    return {name for name, field in _fields(cls).items() if field.metadata.get("passive")}


def build(cls: type[T], mapping: Any, *, where: str) -> T:
    """Build dataclass `cls` from a mapping. Raises UserError with every unknown or missing key and wrong value."""
    from pydantic_core import ValidationError

    try:
        return _validator(cls).validate_python(mapping)  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        raise UserError(listing([_fault(one, where) for one in error.errors(include_url=False)])) from None


def listing(faults: list[str]) -> str:
    """Format faults: a single one as it is, several as a list with one per line."""
    return faults[0] if len(faults) == 1 else "\n  - ".join([f"{len(faults)} settings are wrong:", *faults])


def to_json(settings: Any) -> str:
    """The settings as one line of JSON that is the same however the file orders them; passive fields are left out."""
    return json.dumps(as_data(settings, passive_too=False), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(cls: type[T], text: str, *, where: str = "--settings") -> T:
    """The inverse of `to_json`. Raises UserError where the text is no JSON or does not fit `cls`."""
    try:
        mapping = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); expected what a rule passes.") from error
    return build(cls, mapping, where=where)


def as_data(value: Any, *, passive_too: bool = True) -> Any:
    """Settings as plain dictionaries, lists and scalars.

    Left out is what is None in a class with LEAVES_OUT_NONE, and what is `later` and at its default.
    """
    if dataclasses.is_dataclass(value):
        kept = [f for f in dataclasses.fields(value) if passive_too or not f.metadata.get("passive")]
        kept = [f for f in kept if not (f.metadata.get("later") and getattr(value, f.name) == f.default)]
        own = {f.name: as_data(getattr(value, f.name), passive_too=passive_too) for f in kept}
        leaves_out_none = getattr(value, "LEAVES_OUT_NONE", False)
        return {name: item for name, item in own.items() if not (leaves_out_none and item is None)}
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


@cache
def _validator(cls: Any) -> "SchemaValidator":
    from pydantic_core import SchemaValidator

    return SchemaValidator(_section(cls))


@cache
def _section(cls: Any) -> "CoreSchema":
    """The schema of a dataclass: its fields, each key of another name refused, and its own `__post_init__`."""
    from pydantic_core import core_schema

    fields = {}
    for name, field in _fields(cls).items():
        schema = _schema(_hints(cls)[name], field.metadata)
        if _required(field):
            schema = core_schema.with_default_schema(schema, default=MISSING, validate_default=True)
        fields[name] = core_schema.typed_dict_field(schema, required=False)
    unknown = core_schema.no_info_plain_validator_function(partial(_refuse, "unknown", keys=", ".join(fields)))
    inner = core_schema.typed_dict_schema(fields, extra_behavior="allow", extras_schema=unknown)

    def make(value: Any, check: Callable[[Any], dict[str, Any]]) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            _refuse("setting", value, expected=f"a section with {', '.join(fields)}")
        values = check({str(key): item for key, item in value.items()})
        try:
            return cls(**values)
        except UserError as error:  # of what the section checks by itself
            _refuse("section", value, message=str(error))

    return core_schema.no_info_wrap_validator_function(make, inner)


def _schema(hint: Any, bounds: Mapping[str, Any]) -> "CoreSchema":
    """The schema of a field from its annotation; bounds of a list or of named values are of each of them."""
    from pydantic_core import core_schema

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return core_schema.any_schema()
    if dataclasses.is_dataclass(hint):
        return _section(hint)  # type: ignore[arg-type]  # a class is hashable
    if origin in (types.UnionType, typing.Union):
        kinds = tuple(kind for kind in arguments if kind is not types.NoneType)
        schema = _schema(kinds[0], bounds)
        if "or_word" in bounds:
            schema = _or_word(schema, bounds["or_word"])
        elif any(typing.get_origin(kind) is tuple for kind in kinds):
            schema = core_schema.no_info_plain_validator_function(partial(_build_one_or_list, kinds[0]))
        elif len(kinds) > 1:
            schema = core_schema.no_info_plain_validator_function(partial(_build_by_source, kinds))
        return core_schema.nullable_schema(schema) if len(kinds) < len(arguments) else schema
    if origin is tuple:
        items = core_schema.tuple_schema([_schema(arguments[0], bounds)], variadic_item_index=0)
        return core_schema.no_info_wrap_validator_function(_check_list, items)
    if origin in (Mapping, dict):
        values = core_schema.dict_schema(core_schema.str_schema(), _schema(arguments[1], bounds))
        return core_schema.no_info_wrap_validator_function(_check_names, values)
    return _scalar(hint, bounds)


def _scalar(hint: type, bounds: Mapping[str, Any]) -> "CoreSchema":
    """The schema of one number, text or truth value, or of one of a few words; with what its error says."""
    from pydantic_core import core_schema

    limits = {limit: bounds[key] for key, (limit, _) in BOUNDS.items() if key in bounds}
    wanted = " and ".join(f"{word} {bounds[key]:g}" for key, (_, word) in BOUNDS.items() if key in bounds)
    words = ", ".join(bounds.get("words", ()))
    if words:
        schema: Any = core_schema.literal_schema(list(bounds["words"]))
    elif hint is int:
        schema = core_schema.int_schema(strict=True, **{"ge": -INT64, "le": INT64} | limits)
    elif hint is float:
        schema = core_schema.float_schema(strict=True, allow_inf_nan=False, **limits)
    else:
        schema = core_schema.bool_schema(strict=True) if hint is bool else core_schema.str_schema(strict=True)
    expected = f"one of {words}" if words else f"{WORDS[hint]} {wanted}".strip()
    context = {"expected": expected, "kind": hint.__name__, "words": words}
    return core_schema.custom_error_schema(
        schema, "setting", custom_error_message="{expected}", custom_error_context=context
    )


def _or_word(scalar: Any, word: str) -> "CoreSchema":
    """The schema of a scalar that may be this word instead."""
    from pydantic_core import core_schema

    context = scalar["custom_error_context"]
    return core_schema.custom_error_schema(
        core_schema.union_schema([core_schema.literal_schema([word]), scalar["schema"]]),
        "setting",
        custom_error_message="{expected}",
        custom_error_context=context | {"expected": f"{context['expected']}, or {word}"},
    )


def _check_list(value: Any, check: Callable[[Any], Any]) -> Any:
    return check(value) if isinstance(value, (list, tuple)) else _refuse("setting", value, expected="a list")


def _check_names(value: Any, check: Callable[[Any], Any]) -> Any:
    if not isinstance(value, Mapping):
        _refuse("setting", value, expected="names with their values")
    for name in value:
        if name is None or isinstance(name, bool):
            _refuse("setting", value, expected="text as a name", found=repr(name), kind="str")
    return check({str(name): item for name, item in value.items()})


def _build_by_source(kinds: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, kinds):
        return value
    return _validator(_by_source(kinds, value)).validate_python(value)


def _build_one_or_list(cls: Any, value: Any) -> Any:
    """A section, or a list of such sections."""
    if isinstance(value, cls):
        return value
    return (_list_validator if isinstance(value, (list, tuple)) else _validator)(cls).validate_python(value)


@cache
def _list_validator(cls: Any) -> "SchemaValidator":
    from pydantic_core import SchemaValidator

    return SchemaValidator(_schema(tuple[cls, ...], {}))


def _by_source(kinds: tuple[Any, ...], value: Any) -> Any:
    """Which of these sections it is, by its key `source`: the one that has this word, else the one for any text.

    A section without that key is the one that needs none.
    """
    words = {word: kind for kind in kinds for word in _source_words(kind)}
    for_any_text = [kind for kind in kinds if "source" in _fields(kind) and not _source_words(kind)]
    needing_none = [kind for kind in kinds if "source" not in _fields(kind) or not _required(_fields(kind)["source"])]
    if not isinstance(value, Mapping) or "source" not in value:
        return (needing_none or list(kinds))[0]
    found = value["source"]
    if not isinstance(found, str) or not (found in words or for_any_text):
        _refuse("setting", value, expected=f"one of {', '.join(words)}", found=_shown(found), at=".source")
    return words.get(found) or for_any_text[0]


def _source_words(kind: type) -> tuple[str, ...]:
    field = _fields(kind).get("source")
    return () if field is None else field.metadata.get("words", ())


def _refuse(fault: str, _value: Any, **context: str) -> NoReturn:
    """Raise an error that pydantic's core collects and `_fault` formats as a sentence."""
    from pydantic_core import PydanticCustomError

    raise PydanticCustomError(fault, "{expected}", {"expected": "", **context})  # type: ignore[arg-type]


def _fault(error: "ErrorDetails", where: str) -> str:
    """An error as a sentence: the place, what was found, what was expected and what to do."""
    value, context = error["input"], error.get("ctx", {})
    path = where + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"])
    if error["type"] == "unknown":
        key = str(error["loc"][-1])
        return _unknown_key(path.removesuffix(f".{key}"), key, context["keys"])
    if error["type"] == "section":
        return f"{path}: {context['message']}"
    expected = context.get("expected", error["msg"])
    if value is MISSING:
        return f"{path} is missing; expected {expected}: add it."
    if context.get("kind") == "int" and type(value) is int and abs(value) > INT64:
        expected += f" (64 bits hold {INT64} at most)"
    found = context.get("found") or _shown(value)
    return f"{path}{context.get('at', '')}: found {found}; expected {expected}.{_remedy(value, context)}"


def _unknown_key(where: str, key: str, known: str) -> str:
    return f"{where}: unknown key {key!r}; the keys there are {known}.{_nearest(key, known)}"


def _nearest(found: str, words: str) -> str:
    from difflib import get_close_matches

    return "".join(f" Did you mean {word}?" for word in get_close_matches(found, words.split(", "), n=1))


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _remedy(value: Any, context: Mapping[str, Any]) -> str:
    """The correction to suggest if YAML read a number as text, or text as something else."""
    kind = context.get("kind")
    if isinstance(value, str) and (words := context.get("words")):
        return _nearest(value, words)
    if kind == "str" and not isinstance(value, str) and value is not None:
        return " YAML reads this as something else than text; put it in quotes."
    if isinstance(value, float) and not math.isfinite(value):
        return " It must be finite."
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return f" Write {value:.0f}."
    if kind not in ("int", "float") or not isinstance(value, str):
        return ""
    try:
        number_read = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number_read):
        return " It must be a finite number."
    if kind == "int":
        return f" This is text; write {number_read:.0f} without quotes." if number_read.is_integer() else ""
    mantissa, _, exponent = f"{number_read:e}".partition("e")
    return f" YAML reads this as text; write {float(mantissa)}e{int(exponent):+d}."
