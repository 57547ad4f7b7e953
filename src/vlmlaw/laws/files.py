"""Files of tables: CSV in any usual encoding, Markdown pasted from a README, HTML, LaTeX and spreadsheets, as text.

Every fault of the file raises a UserError that names the file, the line and what was expected. What the texts mean is
read in `texts.py`, which column is what in `columns.py`.
"""

import codecs
import io
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.headers import to_frame
from vlmlaw.laws.html_tables import tables_of_html
from vlmlaw.laws.latex import tables_of_latex
from vlmlaw.laws.separated import rows_of_text

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


_BOX = re.compile(r"\+[-=+]+\+|[\u2500\u2501\u2504-\u257f]{3,}")  # a rule of a table that a terminal printed


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
    HTML where it has a <table>, LaTeX where lines end in \\\\, and else is separated by commas, semicolons, tabs or
    spaces. Raises UserError for a file that holds no table.
    """
    if blob.startswith(b"PK\x03\x04"):
        return [to_frame(rows, path.name) for rows in _of_spreadsheet(path, blob)]
    text = _decode(path, blob)
    if "\n```" in f"\n{text}":
        text = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)  # a fence of Markdown around it
    lines = [re.sub(r"^\s*>\s?(?=.*\|)", "", line) for line in text.splitlines()]
    has_rules = any(_is_rule(line) for line in lines)
    if not has_rules and re.search(r"<table\b|ltx_tabular|^\s*<(!doctype|html|div)\b", text, re.IGNORECASE):
        return _of_html(text, path.name)
    if text.lstrip()[:1] in ("{", "["):
        raise UserError(f"{path.name} is JSON, not a CSV or another table; write its cells as a CSV file, a row each")
    if has_rules:
        tables = _of_markdown(lines, path.name)
    elif any(_BOX.fullmatch(line.strip()) for line in lines):
        bars = [(i, re.sub("[│┃║]", "|", line)) for i, line in enumerate(lines, start=1)]
        tables = [[(i, _markdown_fields(line)) for i, line in bars if "|" in line]]
    elif text.count("\\\\") > 1 and text.count("&") > 1 and (found := tables_of_latex(lines)):
        tables = found
    else:
        tables = [rows_of_text(text, path.name)]
    return [to_frame(rows, path.name) for rows in tables]


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
        return text if "\n" in text else text.replace("\r", "\n")
    raise UserError(f"{path.name} is not a CSV file in UTF-8, UTF-16 or cp1252: {reason}")


def _is_rule(line: str) -> bool:
    fields = re.split(r"[|+]", line.strip().strip("|"))  # Org has + where Markdown has |
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


def _of_html(text: str, source: str) -> list[pd.DataFrame]:
    """The tables of a page in HTML that have a header and rows. Raises UserError where there is none."""
    frames, refused = [], f"{source} is HTML without a table of two rows; paste the table's own rows"
    for rows in tables_of_html(text):
        try:
            frames.append(to_frame(rows, source))
        except UserError as error:
            refused = str(error)
    if not frames:
        raise UserError(refused)
    return frames


def _markdown_fields(line: str) -> list[str]:
    line = line.strip().replace("\\|", "\0")
    line = line.removeprefix("|").removesuffix("|")
    return [field.replace("\0", "|") for field in line.split("|")]


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
