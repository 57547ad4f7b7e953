"""A table's header: names of columns, headings over several of them, headings between rows, a row of units."""

import re

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.names import is_benchmark, may_be
from vlmlaw.laws.texts import is_number, sizes_in_name, tokens_in_name, without_markup

Rows = list[tuple[int, list[str]]]  # the line in the file, and its fields
_UNIT = re.compile(r"[(\[]?(%|[bmkgt]|billions?|millions?|ms|s|sec|gb|mb|t?flops|tokens?)[)\]]?", re.IGNORECASE)


def to_frame(rows: Rows, source: str) -> pd.DataFrame:
    """Rows under their header, which is the first of more than one field. Raises UserError for a ragged table."""
    rows = [(line, [field.strip() for field in fields]) for line, fields in rows]
    rows = [(line, fields) for line, fields in rows if any(fields)]
    widest = max((sum(map(bool, fields)) for _, fields in rows), default=0)
    while len(rows) > 1 and widest > 2 and sum(map(bool, rows[0][1])) == 1:
        rows = rows[1:]  # a title above the table
    if not rows:
        raise UserError(f"{source} is not a CSV file or another table: it has no header")
    rows = _with_units(_with_headings(rows))
    header = rows[0][1]
    while header and not header[-1]:
        header = header[:-1]
    width, written = len(header), [row for row in rows[1:] if row[1][: len(header)] != header]
    header, written, width = _with_groups(header, written)
    for line, fields in written:
        if any(fields[width:]):
            raise UserError(
                f"{source} line {line} has {len(fields)} fields, more fields than its header has names ({width}); "
                "expected equally many"
            )
    if not written:
        raise UserError(f"{source} has no rows under its header")
    columns = {i: [(fields + [""] * width)[i] for _, fields in written] for i in range(width)}
    names = {i: _name(header[i], i, columns[i]) for i in range(width)}
    kept = [i for i in range(width) if names[i]]
    _require_different([names[i] for i in kept], source)
    return pd.DataFrame({names[i]: columns[i] for i in kept}, dtype=str).assign(line=[line for line, _ in written])


def _with_headings(rows: Rows) -> Rows:
    """Rows whose two lines of names, headings over several columns and the names below them, are one."""
    if len(rows) < 3:
        return rows
    (line, top), (_, below), *rest = rows
    width = max(len(top), len(below))
    top, below = [[without_markup(text) for text in fields + [""] * (width - len(fields))] for fields in (top, below)]
    named = [i for i in range(width) if below[i] and (i > 0 or below[0] != top[0])]
    numbers = [i for i in named if is_number(below[i])]
    of_levels = bool(top[0]) and 0 not in named and len(numbers) == len(named) > 1  # "Visual tokens" over 16, 64, 144
    merged = any(not top[i] or top[i] in top[:i] for i in named[1:])
    filled = any(is_number(fields[i]) for _, fields in rest for i in named if i < len(fields) and fields[i])
    if len(named) < 2 or not merged or not filled or (numbers and not of_levels):
        return rows
    for i in named:
        if not top[i] and i - 1 in named:
            top[i] = top[i - 1]
    if of_levels and all(is_benchmark(top[i]) for i in named):  # token counts, or sizes, below each benchmark
        as_level = "{}B" if may_be("n_visual_tokens", top[0]) else "v{}"
        below = [as_level.format(text) if i in named else text for i, text in enumerate(below)]
    different = len({below[i] for i in named}) == len(named)
    return [(line, [_joined(top[i], below[i], different=different) for i in range(width)]), *rest]


def _joined(top: str, below: str, *, different: bool) -> str:
    """The name of a column from the heading over it and the name below; `different`: names below tell columns apart."""
    if not top or not below or top == below:
        return below or top
    if is_number(below) and (may_be("n_visual_tokens", top) or may_be("n_params", top)):
        return f"V={below}" if may_be("n_visual_tokens", top) else f"{below}B"
    if different and not (is_benchmark(top) or tokens_in_name(top) or _states_size(top)):
        return below
    return f"{below} {top}" if is_benchmark(below) else f"{top} {below}"


def _states_size(name: str) -> bool:
    try:
        return sizes_in_name(name) is not None
    except ValueError:  # a mixture of experts of unknown total
        return True


def _with_units(rows: Rows) -> Rows:
    """Rows whose second line holds units, which go into the names: `params` over `B` is `params (B)`."""
    if len(rows) < 3:
        return rows
    (line, names), (_, units), *rest = rows
    given = {i: unit.strip("()[]") for i, unit in enumerate(units) if unit}
    numeric = all(is_number(fields[i]) for _, fields in rest for i in given if i < len(fields))
    if not given or max(given) >= len(names) or not all(map(_UNIT.fullmatch, given.values())) or not numeric:
        return rows
    return [(line, [f"{name} ({given[i]})" if i in given else name for i, name in enumerate(names)]), *rest]


def _with_groups(header: list[str], rows: Rows) -> tuple[list[str], Rows, int]:
    """Headings between the rows, such as "Retain 192 tokens", as a column `group` of the rows below them."""
    width = len(header)
    group, found = "", False
    kept: Rows = []
    for line, fields in rows:
        filled = {field for field in fields if field}
        if (
            width > 2
            and len(filled) == 1
            and sum(map(bool, fields)) in (1, width)
            and re.search(r"[^\W\d]{3}", min(filled))
        ):
            group, found = filled.pop(), True
        else:
            kept.append((line, [*(fields + [""] * width)[:width], group, *fields[width:]]))
    return ([*header, "group"], kept, width + 1) if found and "group" not in header else (header, rows, width)


def _name(name: str, place: int, values: list[str]) -> str:
    """The name of a column; empty for one to leave out: without name, and blank or counting the rows."""
    name = re.sub(r"\s+", " ", without_markup(name))
    if name and not name.startswith("Unnamed:"):
        return "line (of the table)" if name == "line" else name
    counting = values in ([str(i) for i in range(len(values))], [str(i + 1) for i in range(len(values))])
    return "" if counting or not any(values) else f"column {place + 1}"


def _require_different(names: list[str], source: str) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(
                f"{source} names column {name!r} twice (columns {names.index(name) + 1} and {i + 1}); "
                "rename or remove the one that is not meant"
            )
