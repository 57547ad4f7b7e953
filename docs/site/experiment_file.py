"""The reference of the experiment file, written from the definitions of its settings.

Sections are reached from the annotations of `Experiment`, wherever its modules lie. A key's type and default come from
its dataclass, its bounds from the field's metadata, its description from the comment on its line or the class's
docstring (`name: description`).
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any

KINDS = {
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
    types.NoneType: ("null", "null"),
    Any: ("any value", "any values"),
}
BOUNDS = {"least": "at least {:g}", "above": "above {:g}", "most": "at most {:g}"}
# Sections that are put together from several places before they are checked, so they are annotated as plain mappings.
MERGED = {
    "pretraining": "OptimizerSettings",
    "alignment": "AlignmentSettings",
    "training": "TrainingSettings",
    "law": "LawOptions",
}
LAW_OPTIONS = "vlmlaw.laws.options"  # the law's settings stand beside the law, which knows no experiment
DESCRIBED = re.compile(r"^([\w, ]+): (.*(?:\n {2,}.*)*)", re.MULTILINE)  # `level, draws: what they are`
INTRODUCTION = """# The experiment file

Every key of an experiment file such as `params.yaml`, from the definitions that check it. An unknown key, a wrong type
or a value out of bounds is refused before anything runs; `vlmlaw experiment check FILE` says what is wrong. A key with
no default must be given, in a section that is given. [What reruns](../docs/dvc.md) after a change.

In paths, `NAME` stands for a name of your own and `[]` for each entry of a list. `pretraining`, `alignment` and
`training` may stand for all sizes, with what differs for one size in that size's own section.
"""


def reference() -> str:
    """The page, as Markdown."""
    sections = [_section("The file itself", _experiment())]
    for cls, paths in sections_by_class().items():
        sections.append(_section(", ".join(f"`{path}`" for path in paths), cls))
    return "\n".join([INTRODUCTION, *sections])


def sections_by_class() -> dict[type, list[str]]:
    """Where in the file each class of settings stands (`data.train`, `sizes.NAME`), in the order of the file."""
    found: dict[type, list[str]] = {}
    waiting = list(_sections_within(_experiment(), ""))
    while waiting:
        cls, path = waiting.pop(0)
        paths = found.setdefault(cls, [])
        if path not in paths:
            paths.append(path)
            waiting = [*_sections_within(cls, f"{path}."), *waiting]
    return found


def _sections_within(cls: type, prefix: str) -> Iterator[tuple[type, str]]:
    for name, hint in _hints(cls).items():
        for section, suffix in _settings_in(name, hint):
            yield section, prefix + name + suffix


def _settings_in(name: str, hint: Any) -> list[tuple[type, str]]:
    """Each class of settings that a key's annotation holds, and what follows the key in the file (`[]`, `.NAME`)."""
    if name in MERGED and any(typing.get_args(part)[-1:] == (Any,) for part in _alternatives(hint)):
        return [(_class_called(MERGED[name]), "")]
    found: list[tuple[type, str]] = []
    for part in _alternatives(hint):
        arguments = typing.get_args(part)
        if dataclasses.is_dataclass(part):
            found.append((typing.cast(type, part), ""))
        elif arguments:
            is_list = typing.get_origin(part) is tuple
            inner = _settings_in("", arguments[0 if is_list else -1])
            found += [(cls, ("[]" if is_list else ".NAME") + suffix) for cls, suffix in inner]
    return found


@functools.cache
def _experiment() -> type:
    return importlib.import_module("vlmlaw.experiment.experiment").Experiment


@functools.cache
def _class_called(name: str) -> type:
    """A class of settings by its name, wherever it lies. Raises LookupError where no module of ours has it."""
    importlib.import_module(LAW_OPTIONS)
    own = [module for key, module in sorted(sys.modules.items()) if key.startswith("vlmlaw")]
    found = [vars(module)[name] for module in own if name in vars(module)]
    if not found:
        raise LookupError(f"no module of vlmlaw has the settings {name}; expected one by MERGED of {__file__}")
    return found[0]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in _fields(cls)}


def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(typing.cast(Any, cls))


def _section(title: str, cls: type) -> str:
    """A heading, what the class says of itself, and a row for each key."""
    comments, described, hints = _comments(cls), _described(cls), _hints(cls)
    rows = []
    for field in _fields(cls):
        meaning = comments.get(field.name) or described.get(field.name, "")
        cells = [f"`{field.name}`", _kind(field, hints[field.name]), _default(field), meaning]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    introduction = DESCRIBED.sub(lambda found: "" if _names_keys(found, cls) else found[0], _docstring(cls)).strip()
    table = "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
    return f"## {title}{_condition(cls)} {{#{cls.__name__}}}\n\n{introduction}\n\n{table}\n"


def _condition(cls: type) -> str:
    """Which `source` makes a section this one, where several may stand at one place."""
    for field in _fields(cls):
        if field.name == "source":
            words = field.metadata.get("words")
            return f", source {words[0]}" if words else ", a pretrained model"
    return ""


def _kind(field: dataclasses.Field, hint: Any) -> str:
    """The value that a key takes, in words, with its bounds."""
    words, some_of = field.metadata.get("words"), field.metadata.get("each_of_words")
    if words or some_of:
        return ("" if words else "a list of: ") + ", ".join(f"`{word}`" for word in words or some_of)
    bounds = " and ".join(text.format(field.metadata[key]) for key, text in BOUNDS.items() if key in field.metadata)
    return _in_words(field.name, hint) + (f", {bounds}" if bounds else "")


def _in_words(name: str, hint: Any, *, many: bool = False) -> str:
    parts = []
    for part in _alternatives(hint):
        arguments = typing.get_args(part)
        settings = _settings_in(name, part) if arguments or dataclasses.is_dataclass(part) else []
        if dataclasses.is_dataclass(part) or (settings and settings[0][1] == ""):
            cls = settings[0][0]
            parts.append(f"[{'sections' if many else 'section'}](#{cls.__name__})")
        elif typing.get_origin(part) is tuple:
            parts.append("list of " + _in_words("", arguments[0], many=True))
        elif arguments:
            parts.append("names, each with " + _in_words("", arguments[-1]))
        else:
            parts.append(KINDS[part][many])
    return " or ".join(dict.fromkeys(parts))


def _default(field: dataclasses.Field) -> str:
    """The default as YAML has it; empty where the key must be given."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return "the section's defaults" if dataclasses.is_dataclass(value) else f"`{json.dumps(value)}`"
    return "" if field.default is dataclasses.MISSING else f"`{json.dumps(field.default, ensure_ascii=False)}`"


def _docstring(cls: type) -> str:
    """What the class says of itself; a dataclass without a docstring has a signature there, which says nothing."""
    text = inspect.cleandoc(cls.__doc__ or "").split("\n>>> ")[0].rstrip()  # examples are for Python, not for the file
    return "" if text.startswith(f"{cls.__name__}(") else text


def _described(cls: type) -> dict[str, str]:
    """Descriptions in the docstrings of the class and of those that it extends, by key."""
    found: dict[str, str] = {}
    for owner in (parent for parent in reversed(cls.__mro__) if dataclasses.is_dataclass(parent)):
        for match in DESCRIBED.finditer(_docstring(owner)):
            if _names_keys(match, owner):
                found |= dict.fromkeys(match[1].split(", "), " ".join(match[2].split()))
    return found


def _names_keys(match: re.Match, cls: type) -> bool:
    return set(match[1].split(", ")) <= {field.name for field in _fields(cls)}


def _comments(cls: type) -> dict[str, str]:
    """The comment on the line of each key, those of inherited keys included."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if dataclasses.is_dataclass(owner):
            found |= _own_comments(owner)
    return found


def _own_comments(cls: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(cls))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    keys = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    lines = {typing.cast(ast.Name, node.target).id: node.end_lineno for node in keys}
    return {name: by_line[line] for name, line in lines.items() if line in by_line}
