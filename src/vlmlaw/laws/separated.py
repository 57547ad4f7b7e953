"""Tables of plain text as rows: separated by commas, semicolons, tabs or bars, or set in columns by spaces."""

import csv
import io
import re

from vlmlaw.errors import UserError

Rows = list[tuple[int, list[str]]]  # the line in the file, and its fields


def rows_of_text(text: str, source: str) -> Rows:
    """The fields of each line. Lines that begin with # above the header are comments, unless they have its columns.

    Raises UserError for a file that the csv module cannot read.
    """
    lines = text.splitlines()
    comments = _comments(lines)
    first = next((line for line in lines[comments:] if line.strip()), "")
    separator = max((",", "\t", ";", "|"), key=first.count)
    if ";" in first and first.count(";") * 2 >= first.count(separator):
        separator = ";"  # commas in the names, or decimal commas
    rows: Rows = [] if first.count(separator) else _set_in_columns(lines, comments, first)
    if rows:
        return rows
    skipped = "\n" * comments
    reader = csv.reader(
        io.StringIO(skipped + text.split("\n", comments)[-1]), delimiter=separator, skipinitialspace=True
    )
    rows = []
    line = 1
    try:
        for fields in reader:
            rows.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{source} is not a CSV file: line {line}: {error}") from error
    return rows


def _comments(lines: list[str]) -> int:
    """The number of lines above the header that begin with # and have not the columns of the line below them."""
    count = 0
    for i, line in enumerate(lines):
        if line.strip() and not line.startswith("#"):
            break
        below = next((other for other in lines[i + 1 :] if other.strip() and not other.startswith("#")), "")
        if line.strip() and any(line.count(sign) == below.count(sign) > 0 for sign in ",;\t|"):
            break
        count = i + 1
    return count if count < len(lines) else 0


def _set_in_columns(lines: list[str], comments: int, first: str) -> Rows:
    """Fields apart by two spaces or more, or else single words; empty where lines have not equally many."""
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if i > comments and line.strip()]
    numbered = [(i, line) for i, line in numbered if not re.fullmatch(r"\s*[-=]{2,}(\s+[-=]{2,})+\s*", line)]
    if numbered and re.fullmatch(r"[-=\s]+", first):
        first = numbered[0][1]  # the rule above the header of reStructuredText
    wide = re.search(r"\S\s{2,}\S", first)
    if wide:
        rows = [(i, re.split(r"\s{2,}", line.strip())) for i, line in numbered]
    else:
        words = csv.reader((line.strip() for _, line in numbered), delimiter=" ", skipinitialspace=True)
        rows = [(i, fields) for (i, _), fields in zip(numbered, words, strict=False)]
    counts = {len(fields) for _, fields in rows[1:]}
    if rows and counts == {len(rows[0][1]) + 1} and len(rows[0][1]) > 1:
        rows[0] = (rows[0][0], ["", *rows[0][1]])  # the names of rows, as pandas and R print them, have no header
    if wide or (rows and counts <= {len(rows[0][1])} and len(rows[0][1]) > 2):
        return rows
    return []
