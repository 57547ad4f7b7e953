"""What `vlmlaw measure` prints: measured cells first, then what follows from them."""

from __future__ import annotations

import textwrap

from vlmlaw.evaluation.measuring.conclude import Conclusions
from vlmlaw.laws.render import render_table
from vlmlaw.report import measured_words as words
from vlmlaw.report.tables import Table

WIDTH = 100


def in_words(found: Conclusions) -> str:
    """Cells, the answer, paired differences, what else the questions say, and what to know before trusting it."""
    parts = [_table(words.cells_table(found)), _lines(words.answer(found)), _table(words.pairs_table(found))]
    loads = words.loads_table(found)
    parts += [_table(loads)] if loads else []
    parts += [_lines(words.further(found)), _table(words.least_table(found)), _lines(words.laws(found))]
    parts += [_table(table) for table in words.filled_tables(found)]
    parts += [_lines([f"warning: {text}." for text in words.cautions(found)])]
    return "\n\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    return f"{textwrap.fill(table.caption, WIDTH)}\n\n{render_table(table.header, table.rows)}"


def _lines(lines: list[str]) -> str:
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)
