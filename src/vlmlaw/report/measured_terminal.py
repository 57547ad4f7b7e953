"""What `vlmlaw measure` prints: measured cells first, then what follows from them."""

from __future__ import annotations

from vlmlaw.evaluation.measuring.run import Measured
from vlmlaw.laws.render import render_table


def cells_in_words(measured: Measured, *, metric: str) -> str:
    """The table of cells, the blind cells, and what to know about the numbers."""
    table = measured.table
    rows = []
    for row in table.to_dict("records"):
        rows.append(
            [
                row["model"],
                row["budget"],
                _number(row["n_visual_tokens"], 0)
                if row["v_source"] == "counted"
                else f"{row['n_visual_tokens']:.0f}?",
                f"{row['v_least']:.0f}-{row['v_most']:.0f}" if row["v_least"] != row["v_most"] else "",
                _number(row["n_text_tokens"], 0),
                _number(row["n_generated_tokens"], 1),
                f"{row['error']:.3f}",
                f"{row['error_se']:.3f}",
                _number(row["first_token_ms"], 0),
                _number(row["total_ms"], 0),
                _number(row["total_ms_p95"], 0),
            ]
        )
    header = ["model", "budget", "V", "range", "Q", "G", "error", "se", "first ms", "total ms", "p95"]
    n = int(table.n_questions.max())
    lines = [f"{n} questions, judged by {metric}. V is counted; times are medians and the 95th percentile.", ""]
    lines.append(render_table(header, rows))
    lines += [f"warning: {text}." for text in measured.warnings]
    lines += [f"left out: {cell}: {why}." for cell, why in measured.incomplete.items()]
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "" if value is None or value != value else f"{value:.{digits}f}"
