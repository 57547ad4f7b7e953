"""Files of tables: CSV in any usual encoding, Markdown pasted from a README, LaTeX and spreadsheets, all as text.

Every fault of the file raises a UserError that names the file, the line and what was expected. What the texts mean is
read in `texts.py`, which column is what in `columns.py`.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from vlmlaw.errors import UserError

MAX_BYTES = 256 * 2**20
Rows = list[tuple[int, list[str]]]  # the line in the file, and its fields
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = ((b"PAR1", "a Parquet file"), (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls)"), (b"%PDF", "a PDF"))
_RULE = re.compile(r"\s*:?-+:?\s*")  # a field of the line under the header of a Markdown table


_BOX = re.compile(r"\+[-=+]+\+|[┌├└][─┬┼┴]+[┐┤┘]")  # a rule of a table that a terminal printed


def read_bytes(path: str | Path) -> tuple[Path, bytes]:
    """The path and the content of a file; the name of a published table stands for its file.

    Raises UserError for a file that cannot be read or is too large.
    """
    from vlmlaw.laws.published import TABLES, published_csv, published_path

    if not Path(path).exists() and str(path) in TABLES:
        return published_path(str(path)), published_csv(str(path))
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path} holds {path.stat().st_size} bytes; a table of measurements has at most {MAX_BYTES}"
            )
        return path, path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}. Give a CSV file, or a published table such as li2024_reasoning "
            "(`vlmlaw law tables` lists them)"
        ) from error


def parse_tables(path: Path, blob: bytes) -> list[pd.DataFrame]:
    """Parse the tables of a file, every field as text without outer spaces; Markdown and spreadsheets may hold several.

    `line` is the line in the file, of a spreadsheet the row. A file of text is Markdown where it has a line |---|---|,
    LaTeX where lines end in \\\\, and else is separated by commas, semicolons, tabs or spaces. Raises UserError for a
    file that holds no table.
    """
    if blob.startswith(b"PK\x03\x04"):
        return [_frame(rows, path.name) for rows in _of_spreadsheet(path, blob)]
    text = _decode(path, blob)
    lines = text.splitlines()
    if re.match(r"\s*<(!doctype|html|table|div)", text, re.IGNORECASE):
        raise UserError(f"{path.name} is HTML; open it in a browser and save its table as CSV, or paste it as Markdown")
    if text.lstrip()[:1] in ("{", "["):
        raise UserError(f"{path.name} is JSON, not a CSV or another table; write its cells as a CSV file, a row each")
    if any(_is_rule(line) for line in lines):
        return [_frame(rows, path.name) for rows in _of_markdown(lines, path.name)]
    elif any(_BOX.fullmatch(line.strip()) for line in lines):
        bars = [(i, line) for i, line in enumerate(lines, start=1) if "|" in line or "│" in line]
        rows = [(i, _markdown_fields(line.replace("│", "|"))) for i, line in bars]
    elif sum(line.rstrip().endswith("\\\\") and "&" in line for line in lines) > 1:
        rows = _of_latex(lines)
    else:
        rows = _of_separated(text, path.name)
    return [_frame(rows, path.name)]


def _decode(path: Path, blob: bytes) -> str:
    for start, what in _OTHER_FILES:
        if blob.startswith(start):
            raise UserError(f"{path.name} is {what}, not a CSV file; save the table as CSV or xlsx")
    marked = next((encoding for mark, encoding in _MARKS if blob.startswith(mark)), None)
    if marked is None and b"\0" in blob[:2000]:  # UTF-16 without its mark: every second byte of ASCII is 0
        marked = "utf-16-le" if blob[1:2] == b"\0" else "utf-16-be"
    for encoding in [marked] if marked else ["utf-8", "cp1252"]:
        try:
            text = blob.decode(encoding)
        except UnicodeDecodeError as error:
            reason = str(error)
            continue
        if re.search(r"[\x00-\x08\x0e-\x1f\ufffe]|.\ufeff", text):
            reason = "it holds control characters"
            continue
        return text
    raise UserError(f"{path.name} is not a CSV file in UTF-8, UTF-16 or cp1252: {reason}")


def _of_separated(text: str, source: str) -> Rows:
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    separator = max((",", "\t", ";", "|"), key=first.count)
    if ";" in first and first.count(";") * 2 >= first.count(separator):
        separator = ";"  # commas in the names, or decimal commas
    if not first.count(separator) and re.search(r"\S\s{2,}\S", first):
        parts = enumerate(text.splitlines(), start=1)
        return [(number, re.split(r"\s{2,}", line.strip())) for number, line in parts if line.strip()]
    if not first.count(separator):
        words = [(i, line.split()) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
        if len({len(fields) for _, fields in words}) == 1 and len(first.split()) > 2:
            return words
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    rows: Rows = []
    line = 1
    try:
        for fields in reader:
            if not (line == 1 or not rows) or not (fields and fields[0].startswith("#") and separator not in fields[0]
                                                   and len(fields) == 1):  # fmt: skip
                rows.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{source} is not a CSV file: line {line}: {error}") from error
    return rows


def _is_rule(line: str) -> bool:
    fields = line.strip().strip("|").split("|")
    return "|" in line and "-" in line and all(_RULE.fullmatch(field) for field in fields)


def _of_markdown(lines: list[str], source: str) -> list[Rows]:
    """The tables of a page in Markdown; tables of the same header are one. Raises UserError where there is none."""
    tables: dict[tuple[str, ...], Rows] = {}
    for rule in [i for i, line in enumerate(lines) if _is_rule(line) and i > 0 and "|" in lines[i - 1]]:
        header = _markdown_fields(lines[rule - 1])
        rows = tables.setdefault(tuple(header), [(rule, header)])
        for number in range(rule + 1, len(lines)):
            if "|" not in lines[number]:
                break
            rows.append((number + 1, _markdown_fields(lines[number])))
    if not tables:
        raise UserError(f"{source} has a line |---| without a header above it; expected a table as Markdown has it")
    return [rows for rows in tables.values() if len(rows) > 1] or list(tables.values())[:1]


def _markdown_fields(line: str) -> list[str]:
    line = line.strip().replace("\\|", "\0")
    line = line.removeprefix("|").removesuffix("|")
    return [field.replace("\0", "|") for field in line.split("|")]


def _of_latex(lines: list[str]) -> Rows:
    rows: Rows = []
    for number, line in enumerate(lines, start=1):
        if "&" not in line:
            continue
        line = re.sub(r"\\(toprule|midrule|bottomrule|hline|c(mid)?rule(\([lr]+\))?\{[^}]*\})", "", line)
        line = re.sub(r"\\\\(\[[^]]*\])?\s*(%.*)?$", "", line.strip())
        line = re.sub(r"\\[a-zA-Z]+\{([^{}]*)\}", r"\1", line)  # \textbf{64.2}
        fields = re.split(r"(?<!\\)&", line)
        rows.append((number, [re.sub(r"\\([%&_#$])", r"\1", field).replace("$", "") for field in fields]))
    return rows


def _of_spreadsheet(path: Path, blob: bytes) -> list[Rows]:
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path.name} is a spreadsheet; reading it needs openpyxl: pip install 'vlmlaw[sheets]', or save it as CSV"
        ) from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(blob), read_only=True, data_only=True)
        sheets = {sheet.title: list(_sheet_rows(sheet.iter_rows())) for sheet in book.worksheets}
    except Exception as error:  # openpyxl raises whatever the zip and XML inside raise
        raise UserError(f"{path.name} cannot be read as an Excel file (.xlsx): {error}; save it as CSV") from error
    filled = [rows for rows in sheets.values() if len(rows) > 1]
    if not filled:
        raise UserError(f"{path.name} has no sheet with rows (it has {', '.join(sheets)}); expected one with the cells")
    return filled


def _sheet_rows(rows: Iterable[Iterable[object]]) -> Iterable[tuple[int, list[str]]]:
    for number, row in enumerate(rows, start=1):
        fields = [_sheet_text(cell) for cell in row]
        if any(fields):
            yield number, fields


def _sheet_text(cell: object) -> str:
    value = getattr(cell, "value", None)
    if value is None:
        return ""
    if isinstance(value, float):
        if "%" in str(getattr(cell, "number_format", "")):  # 0.45 that is shown as 45 %
            return f"{100 * value:.12g}%"
        return f"{value:.15g}"
    return str(value)


def _frame(rows: Rows, source: str) -> pd.DataFrame:
    """Rows under their header, which is the first of more than one field. Raises UserError for a ragged table."""
    rows = [(line, [field.strip() for field in fields]) for line, fields in rows]
    rows = [(line, fields) for line, fields in rows if any(fields)]
    widest = max((sum(map(bool, fields)) for _, fields in rows), default=0)
    while len(rows) > 1 and widest > 2 and sum(map(bool, rows[0][1])) == 1:
        rows = rows[1:]  # a title above the table
    if not rows:
        raise UserError(f"{source} is not a CSV file or another table: it has no header")
    header = rows[0][1]
    while header and not header[-1]:
        header = header[:-1]
    width, written = len(header), rows[1:]
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
    from vlmlaw.laws.texts import without_markup

    name = without_markup(name)
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
