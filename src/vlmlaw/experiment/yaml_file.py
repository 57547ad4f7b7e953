"""Strict reading of YAML: values that YAML 1.1 would read differently than they look are errors, with their line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from vlmlaw.errors import UserError
from vlmlaw.settings import listing

MOST_NODES = 1_000_000  # once aliases are written out: a file of a few lines can stand for billions
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises UserError that lists each fault: bad YAML, repeated keys, ambiguous values."""
    try:
        with path.open(encoding="utf-8") as file:  # not its text: the parser's messages then name the file
            return _read(file, str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as YAML: {error}") from error


def read_yaml_text(text: str, *, source: str) -> Any:
    """What a text stands for, as strictly as `read_yaml`; `source` names it in messages."""
    return _read(text, source)


def _read(stream: str | IO[str], source: str) -> Any:
    try:
        loader = yaml.SafeLoader(stream)
        loader.name = source
        try:
            return _checked(loader, source)
        finally:
            loader.dispose()
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {source} as YAML: {error}") from error
    except RecursionError as error:
        raise UserError(f"cannot read {source} as YAML: it nests too deeply; expected settings.") from error


def _checked(loader: yaml.SafeLoader, path: str) -> Any:
    node = loader.get_single_node()
    if node is None:
        return None
    if _count(node, {}) > MOST_NODES:
        raise UserError(f"cannot read {path}: its aliases stand for more than {MOST_NODES:,} values; write them out.")
    faults = [f"{path}, line {line}: {fault}" for line, fault in sorted(set(_faults(loader, node)))]
    if faults:
        raise UserError(listing(faults))
    return loader.construct_document(node)


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Nodes below it with each alias written out. Raises yaml.YAMLError for an alias inside what it stands for."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if (count := known[id(node)]) is not None:
            return count
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an alias stands for what it is part of; write it out")
    known[id(node)] = None  # until all below it are counted
    count = 1 + sum(_count(child, known) for child in _children(node))
    known[id(node)] = count
    return count


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _faults(loader: yaml.SafeLoader, node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Lines and what is wrong there, below a node; an alias is looked at where it is defined and where it is used."""
    seen, waiting = set[int](), [node]
    if isinstance(node, yaml.ScalarNode) and (fault := _fault_of_value(loader, node, in_list=False)):
        yield node.start_mark.line + 1, fault
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        waiting += reversed(_children(node))
        if isinstance(node, yaml.MappingNode):
            yield from _faults_of_names(loader, [key for key, _ in node.value])
            values = [value for _, value in node.value]
        else:
            values = _children(node)
        for value in values:
            if isinstance(value, yaml.ScalarNode):
                fault = _fault_of_value(loader, value, in_list=isinstance(node, yaml.SequenceNode))
                if fault:
                    yield value.start_mark.line + 1, fault


def _faults_of_names(loader: yaml.SafeLoader, keys: list[yaml.Node]) -> Iterator[tuple[int, str]]:
    lines: dict[str, int] = {}
    for key in keys:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield line, "found a list or section as a name; expected text."
        elif key.tag != f"{TAG}merge":
            name = str(loader.construct_object(key))
            if key.style is None and name != key.value:
                yield line, f"YAML reads the name {key.value} as {name}; write it in quotes: {key.value!r}."
            elif name in lines:
                yield line, f"the key {key.value!r} is there twice, first in line {lines[name]}; remove one of them."
            lines.setdefault(name, line)


def _fault_of_value(loader: yaml.SafeLoader, node: yaml.ScalarNode, *, in_list: bool) -> str:
    """What is wrong with a value without quotes: whole numbers that are no decimals, minutes and seconds, `no`."""
    text, kind = node.value, node.tag.removeprefix(TAG)
    surprising = node.style is None and (
        (kind == "int" and not DECIMAL.fullmatch(text))
        or (kind == "float" and (":" in text or "_" in text))
        or (kind == "bool" and in_list and text.lower() not in ("true", "false"))
    )
    if not surprising:
        return ""
    value = loader.construct_object(node)
    meant = f"{value} if that is meant, or" if kind != "bool" else "it in quotes if it is a name:"
    return f"YAML reads {text} as {value}; write {meant} {text!r}{' for text' if kind != 'bool' else ''}."
