"""Tables of an HTML page, as a browser saves it or arXiv's HTML of a paper (LaTeXML) has it, as rows of plain text."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

Rows = list[tuple[int, list[str]]]  # the line in the file, and its fields

_ROLES = {"table": "table", "tr": "tr", "td": "td", "th": "td", "script": "skip", "style": "skip", "math": "skip"}
_OF_LATEXML = {"ltx_tabular": "table", "ltx_tr": "tr", "ltx_td": "td", "ltx_th": "td", "ltx_note": "skip"}
_VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"))
_CLOSED_BY = {"td": ("td",), "tr": ("td", "tr"), "table": ("td", "tr", "table")}  # </td> and </tr> may be left out
MOST_SPANNED = 1000


@dataclass
class _Table:
    """A table that is being read. `below` holds what merged cells put into rows to come: column -> (text, rows)."""

    rows: Rows = field(default_factory=list)
    fields: list[str] | None = None
    text: list[str] | None = None
    spans: tuple[int, int] = (1, 1)  # columns, rows
    below: dict[int, tuple[str, int]] = field(default_factory=dict)
    taken: dict[int, tuple[str, int]] = field(default_factory=dict)  # the same, of the row that is being read

    def end_cell(self) -> None:
        if self.text is None or self.fields is None:
            return
        value = re.sub(r"\s+", " ", "".join(self.text)).strip()
        self._fill()
        for _ in range(self.spans[0]):
            if self.spans[1] > 1:
                self.below[len(self.fields)] = (value, self.spans[1] - 1)
            self.fields.append(value)
        self.text = None

    def end_row(self, line: int) -> None:
        self.end_cell()
        if self.fields is not None:
            self._fill()
            self.rows.append((line, self.fields))
            self.fields = None

    def start_row(self) -> None:
        self.fields, self.taken = [], dict(self.below)
        self.below = {at: (text, left - 1) for at, (text, left) in self.below.items() if left > 1}

    def _fill(self) -> None:
        """Repeat the merged cells that reach down to here."""
        assert self.fields is not None
        while (found := self.taken.pop(len(self.fields), None)) is not None:
            self.fields.append(found[0])

    @property
    def is_small(self) -> bool:
        """Whether it only breaks the lines of one cell of another table."""
        return len(self.rows) < 2 or max(len(fields) for _, fields in self.rows) < 3


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Rows] = []
        self.open: list[tuple[str, str]] = []  # (tag, role), the innermost last
        self.tables: list[_Table] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        role = next((_OF_LATEXML[word] for word in given.get("class", "").split() if word in _OF_LATEXML), None)
        role = role or _ROLES.get(tag, "")
        if tag in ("br", "p", "div"):
            self._write(" ")
        if tag == "math" and given.get("alttext"):
            self._write(f"${given['alttext']}$")
        if tag in _VOID:
            return
        if role in ("td", "tr"):
            self._close(_CLOSED_BY[role])
        self.open.append((tag, role))
        self._start(role, given)

    def _start(self, role: str, given: dict[str, str]) -> None:
        if role == "table":
            self.tables.append(_Table())
        elif role == "tr" and self.tables:
            self.tables[-1].start_row()
        elif role == "td" and self.tables:
            if self.tables[-1].fields is None:
                self.tables[-1].start_row()
            self.tables[-1].text, self.tables[-1].spans = [], (_span(given, "colspan"), _span(given, "rowspan"))

    def handle_endtag(self, tag: str) -> None:
        at = next((i for i in reversed(range(len(self.open))) if self.open[i][0] == tag), None)
        if at is not None:
            while len(self.open) > at:
                self._end(self.open.pop()[1])

    def handle_data(self, data: str) -> None:
        if not any(role == "skip" for _, role in self.open):
            raised = any(tag == "sup" for tag, _ in self.open)
            if not raised or re.match(r"\s*(±|[a-zA-Z]+\d)", data):  # as in VQA^v2; else a footnote's mark
                self._write(data)

    def close(self) -> None:
        super().close()
        while self.open:
            self._end(self.open.pop()[1])

    def _close(self, roles: tuple[str, ...]) -> None:
        """End cells and rows of the innermost table that are still open."""
        start = max((i for i, (_, role) in enumerate(self.open) if role == "table"), default=-1)
        at = next((i for i in range(start + 1, len(self.open)) if self.open[i][1] in roles), None)
        while at is not None and len(self.open) > at:
            self._end(self.open.pop()[1])

    def _end(self, role: str) -> None:
        if not self.tables:
            return
        table = self.tables[-1]
        if role == "td":
            table.end_cell()
        elif role == "tr":
            table.end_row(self.getpos()[0])
        elif role == "table":
            table.end_row(self.getpos()[0])
            self.tables.pop()
            if self.tables and table.is_small:
                self._write(" ".join(text for _, fields in table.rows for text in fields))
            elif len(table.rows) > 1:
                self.found.append(table.rows)

    def _write(self, text: str) -> None:
        if self.tables and self.tables[-1].text is not None:
            self.tables[-1].text.append(text)


def _span(given: dict[str, str], name: str) -> int:
    text = given.get(name, "1").strip()
    return min(max(int(text), 1), MOST_SPANNED) if text.isdigit() else 1


def tables_of_html(text: str) -> list[Rows]:
    """The tables of a page with two rows or more; merged cells are repeated in each row and column that they span.

    >>> tables_of_html("<table><tr><th>LLM<th>V<tr><td rowspan=2>7B<td>64<tr><td>576</table>")
    [[(1, ['LLM', 'V']), (1, ['7B', '64']), (1, ['7B', '576'])]]
    """
    parser = _Parser()
    parser.feed(text)
    parser.close()
    return parser.found
