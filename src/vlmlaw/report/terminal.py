"""Summary of the laws in a few lines, printed at the end of a run."""

import textwrap
from pathlib import Path
from typing import Any

from vlmlaw.laws.analysis import read_analysis
from vlmlaw.laws.cells import format_size
from vlmlaw.laws.result import LawFit
from vlmlaw.report import phrasing
from vlmlaw.report.study import DEFAULT_QUESTION_TOKENS, v_star_at

WIDTH = 78


def summary(law: Path, *, page: Path | None, question_tokens: float | None = None) -> str:
    """The summary: advice, rho and V* at `question_tokens` for each suite, and the path of the page."""
    analysis = read_analysis(law)
    lines = _laws(analysis, question_tokens or DEFAULT_QUESTION_TOKENS) if analysis["fits"] else _axes(analysis)
    n_warnings = len(analysis["lint"])
    if n_warnings:
        lines.append(f"{phrasing.plural(n_warnings, 'warning')} about the measurements; the page has them")
    if page is not None:
        lines += ["", f"report: {page}" if page.exists() else f"report: {page} is not there yet; run snakemake"]
    return "\n".join(lines)


def _axes(analysis: dict[str, Any]) -> list[str]:
    """What is said of cells of one size, or with one number of tokens, which have no law in both."""
    lines = ["", "Error along one axis" if analysis["axes"] else "Too few cells for a law", "─" * WIDTH]
    groups = [group for group in analysis["axes"] if phrasing.is_whole_suite(group)] or analysis["axes"]
    several = phrasing.several_compressors(groups)
    for group in groups:
        sentence, _, without = str(group["sentence"]).partition(" There is no rho")
        said = f"{phrasing.label(group, with_compressor=several)}: {sentence}"
        lines += textwrap.wrap(said, WIDTH, subsequent_indent="  ")
    skipped = [group for group in analysis["skipped"] if phrasing.is_whole_suite(group) or analysis["axes"]]
    several = phrasing.several_compressors(skipped)
    for group in skipped:
        said = group["why"] if analysis["axes"] else "; ".join(map(_cell, group["cells"]))
        label = phrasing.label(group, with_compressor=several)
        lines += textwrap.wrap(f"{label}: {said}", WIDTH, subsequent_indent="  ")
    return [*lines, *([f"There is no rho{without}"] if groups else []), "─" * WIDTH]


def _cell(cell: dict[str, float]) -> str:
    return f"error {phrasing.error(cell['error'])} of {format_size(cell['N'])} at V = {cell['V']:g}"


def _laws(analysis: dict[str, Any], q: float) -> list[str]:
    options = analysis["provenance"]["options"]
    fits = [fit for fit in analysis["fits"] if phrasing.is_whole_suite(fit)] or analysis["fits"]
    several = phrasing.several_compressors(fits)
    labels = [phrasing.label(fit, with_compressor=several) for fit in fits]
    rows = [[label, *_row(fit, options, q)] for label, fit in zip(labels, fits, strict=True)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["", "Larger LLM or more visual tokens?", "─" * WIDTH]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("─" * WIDTH)
    for label, fit in zip(labels, fits, strict=True):
        lines.append(f"{label}: {fit['formula']}, {fit['n_cells']} cells{_held_out_error(fit)}")
    return lines


def _row(fit: dict[str, Any], options: dict[str, Any], q: float) -> list[str]:
    best = phrasing.best(fit["rho"], v_star_at(q, LawFit.from_dict(fit["fit"]), options), at=q)
    return [phrasing.rho(fit["rho"]).replace("ρ", "rho"), phrasing.advice(fit["rho"]), best]


def _held_out_error(fit: dict[str, Any]) -> str:
    held = fit["hold_out"]
    within = phrasing.percent(held["max_relative_error"]) if held else ""
    return f"; N = {phrasing.held_out(fit)}, unseen, predicted within {within}" if held else ""
