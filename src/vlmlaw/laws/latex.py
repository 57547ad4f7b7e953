"""LaTeX tables as rows of plain text: merged cells are repeated, looks are dropped, symbols spelt out."""

import re

Rows = list[tuple[int, list[str]]]  # the line in the file, and its fields

_SPACES = re.compile(r"\\[,;:! ]|\\(?:quad|qquad|thinspace|enspace|xspace|hfill)(?![a-zA-Z])|~")
_SYMBOLS = {
    **{"pm": " ± ", "times": "x", "downarrow": "↓", "uparrow": "↑", "rightarrow": "→", "to": "→", "sim": "~"},
    **{"approx": "~", "checkmark": "✓", "cmark": "✓", "xmark": "✗", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥"},
    **{"textpm": " ± ", "Delta": "Δ", "rho": "rho", "cdot": "·", "textbackslash": ""},
}
_SYMBOL = re.compile(rf"\\({'|'.join(sorted(_SYMBOLS, key=len, reverse=True))})(?![a-zA-Z])")
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|hline|Xhline|hdashline|noalign|addlinespace|specialrule|cmidrule|cline|rowcolors?"
    r"|arrayrulecolor|rule|vspace|label|centering)(?![a-zA-Z])\*?(?:\([^)]*\)|\[[^]]*\]|\{[^{}]*\}|[\d.]+(?:pt|em|ex))*"
)
_SILENT = "cellcolor|color|cite[a-z]*|ref|footnote|footnotemark|tablefootnote|hspace|vspace|fontsize|label|phantom"
_DROPPED = re.compile(rf"\\(?:{_SILENT})(?![a-zA-Z])\*?(?:\[[^]]*\]|\{{[^{{}}]*\}})+")
_LOOKS = re.compile(r"\\(?:textcolor|scalebox|rotatebox|raisebox)\*?(?:\[[^]]*\])*\{[^{}]*\}(?:\[[^]]*\])*\{([^{}]*)\}")
_WRAPPED = re.compile(r"\\[a-zA-Z]+\*?(?:\[[^]]*\])?\{([^{}]*)\}")
_MERGED = re.compile(r"\s*\\(multicolumn|multirow|multirowcell)\*?(?:\[[^]]*\])?\s*\{\s*(-?\d+)\s*\}")


def plain(text: str) -> str:
    r"""A cell without commands and braces.

    >>> plain(r"\cellcolor{gray}\textbf{\underline{60.1}}"), plain(r"$64.0_{\pm 0.3}$"), plain(r"VQA$^{\text{v2}}$")
    ('60.1', '64.0 ± 0.3', 'VQAv2')
    """
    text = _SPACES.sub(" ", text)
    text = _SYMBOL.sub(lambda found: _SYMBOLS[found[1]], text)
    for pattern in (_DROPPED, _LOOKS, _WRAPPED):
        before = ""
        while before != text:
            before, text = text, pattern.sub(r"\1" if pattern.groups else "", text)
    text = text.replace("$", "")
    text = re.sub(r"[_^]\s*\{?\s*±\s*([\d.]+)\s*\}?", r" ± \1", text)
    text = re.sub(r"(?<=[\d%)])\s*[_^](?:\{[^{}]*\}|\\?[\w*†‡]+)", "", text)  # marks and gains behind a number
    text = re.sub(r"\\[a-zA-Z]+\*?", "", text)
    text = re.sub(r"\\([%&_#${}])", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"\^|[{}]|_(?=\{)", "", text)).strip()


def tables_of_latex(lines: list[str]) -> list[Rows]:
    r"""The rows of each tabular, or of all lines where there is none; rows may run over several lines.

    A cell merged over columns (\multicolumn) or rows (\multirow) is repeated in each of them.
    """
    text = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in lines)
    spans = [found.span() for found in re.finditer(r"\\begin\{tabular.?\}.*?\\end\{tabular.?\}", text, re.DOTALL)]
    tables = [_rows(text[start:end], text.count("\n", 0, start) + 1) for start, end in spans or [(0, len(text))]]
    return [rows for rows in tables if len(rows) > 1]


def _rows(text: str, first_line: int) -> Rows:
    text = re.sub(r"\\(?:makecell|shortstack)(?:\[[^]]*\])?\{(?:[^{}]|\{[^{}]*\})*\}", _without_breaks, text)
    start = re.match(r"\\begin\{tabular.?\}(?:\[[^]]*\]|\{[\d.]*\\(?:text|line|column)width\})?\s*", text)
    begin = _closing(text, start.end()) + 1 if start and text[start.end() :].startswith("{") else 0
    rows: Rows = []
    below: dict[int, tuple[str, int]] = {}  # what stands in a column for so many further rows
    line = first_line + text.count("\n", 0, begin)
    for part in re.split(r"\\\\(?:\s*\[[^]]*\])?|\\tabularnewline|\\cr\b", text[begin:].split("\\end{tabular")[0]):
        row = _RULES.sub("", part).strip()
        if "&" in row or "\\multicolumn" in row:
            at = line + part[: len(part) - len(part.lstrip())].count("\n")
            rows.append((at, _fields(row, rows, below)))
        line += part.count("\n")
    return rows


def _without_breaks(found: re.Match[str]) -> str:
    return found[0].replace("\\\\", " ")


def _closing(text: str, at: int) -> int:
    """Where the brace that opens here closes; the end of the text where none does."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return place
    return len(text) - 1


def _merged(cell: str) -> tuple[str, int, str] | None:
    """The command that merges cells, over how many, and what stands in them; None for a plain cell."""
    found = _MERGED.match(cell)
    if found is None:
        return None
    at = found.end()
    inner: list[str] = []
    while len(inner) < 2 and (more := re.match(r"\s*(?:(\*)|\[[^]]*\]|(\{))", cell[at:])):
        end = at + more.end()
        if more[2]:
            end = _closing(cell, end - 1) + 1
            inner.append(cell[at:end].strip()[1:-1])
        elif more[1]:  # \multirow{2}*{content}
            inner.append("*")
        at = end
    return found[1], int(found[2]), (inner[-1] if inner else "") + " " + cell[at:]


def _fields(row: str, rows: Rows, below: dict[int, tuple[str, int]]) -> list[str]:
    """The fields of a row, with those of rows above that reach into it; fills rows above where a cell reaches up."""
    fields: list[str] = []
    for cell in re.split(r"(?<!\\)&", row):
        n_columns, n_rows = 1, 1
        while found := _merged(cell):
            command, number, cell = found
            n_columns, n_rows = (max(number, 1), n_rows) if command == "multicolumn" else (n_columns, number)
        text, place = plain(cell), len(fields)
        standing, left = below.pop(place, ("", 0))
        if left and not text:
            text, n_rows = standing, left
        if n_rows > 1:
            below[place] = (text, n_rows - 1)
        for _, above in rows[n_rows + 1 :] if n_rows < -1 else ():
            if place < len(above) and not above[place]:
                above[place] = text
        fields += [text] * n_columns
    return fields
