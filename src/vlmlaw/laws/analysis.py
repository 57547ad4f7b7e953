"""The complete analysis of a table of measurements as plain data: the JSON file that report and figures are made from.

Layout of the result (null stands for "not bounded" or "does not apply"):

    kind "vlmlaw-analysis", version, provenance {source, sha256, n_rows, units, vlmlaw, options},
    lint [finding], fits [one for each group of rows, and for the mean of suites],
    axes [a Curve of one_axis.py for each group of one size or one V],
    skipped [{suite, kind, why, cells [{N, V, error}]}]: groups with neither

    fit: suite, kind, compressor (only where several share cells), n_cells, n_held_out, law, why, verdict [sentence],
        formula, fit (see LawFit.from_dict), r_squared, aicc, laws [row of compare_laws], refused {law: why},
        summary [row per parameter],
        rho {estimate, lower, upper, level, method, infinite, law, behind} or null: of the best law with a single rho,
        and how much greater its AICc is than that of the chosen law; infinite: see Interval.to_dict,
        rho_intervals [the same by every method], average {rho, se} or null, v_star [row of v_star for each Q],
        rho_profile [{rho, sse, f}], d_profile [row for each D], hold_out {...} or null,
        frontier [row for each Q and budget], cost_frontier [row for each budget of the measured cost],
        cells [{N, V, error, predicted, residual, held_out}]
"""

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw import __version__
from vlmlaw.errors import UserError
from vlmlaw.laws.bootstrap import Draws, residual_bootstrap, size_bootstrap
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.costs import ColumnCost, Cost, tokens_of_pass
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.holdout import HoldOut, hold_out
from vlmlaw.laws.intervals import d_profile, rho_interval, rho_profile
from vlmlaw.laws.linter.lint import lint, require_clean
from vlmlaw.laws.linter.values import Finding
from vlmlaw.laws.optimum import Predicted, frontier, v_star
from vlmlaw.laws.options import AUTO, LawOptions
from vlmlaw.laws.ratio import Interval
from vlmlaw.laws.replicates import collapse_questions
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.selection import Comparison, compare_laws
from vlmlaw.laws.table import Measurements, as_measurements
from vlmlaw.laws.verdict import verdict

JSON_KIND = "vlmlaw-analysis"
ONE_AXIS = ("few-sizes", "few-token-counts")  # what the linter calls a table along one axis


def analyse(
    table: Measurements | pd.DataFrame,
    options: LawOptions | None = None,
    *,
    out: str | Path | None = None,
    allow_none: bool = False,
) -> dict[str, Any]:
    """Analyse every suite and kind of question in a table, and return the result as plain data.

    The module's docstring has the layout. With `out` the result is also written to that JSON file. Raises UserError
    if the linter finds errors, or if no suite supports a law or a curve; with `allow_none` the latter is a result, too:
    what a workflow has trained is shown, however few the cells are.

    >>> from vlmlaw.laws import read_measurements
    >>> options = LawOptions(candidates=("logit",), bootstrap_draws=0)
    >>> result = analyse(read_measurements("li2024_reasoning"), options)
    >>> [(fit["law"], round(fit["rho"]["estimate"], 3)) for fit in result["fits"]]
    [('logit', 4.715)]
    """
    options = options or LawOptions()
    table = as_measurements(table)
    if options.pass_tokens is None:
        options = replace(options, pass_tokens=tokens_of_pass(table))
    findings = _require_usable(table, options, allow_none=allow_none)
    n_rows, table = len(table), collapse_questions(table)
    if len(table) < n_rows:  # copies of a cell are no finding where they are its questions
        findings = _require_usable(table, options, allow_none=allow_none)
    fits, axes, skipped = _analyse_groups(table, options)
    if not fits and not axes and not allow_none:
        raise UserError(f"no law can be fitted to {table.source}: {skipped[0]['why']}")
    result = {
        "kind": JSON_KIND,
        "version": 1,
        "provenance": {
            "source": table.source,
            "sha256": table.sha256,
            "n_rows": n_rows,
            "units": dict(table.units),
            "vlmlaw": __version__,
            "options": options.to_mapping(),
        },
        "lint": [finding.to_dict() for finding in findings],
        "fits": fits,
        "axes": axes,
        "skipped": skipped,
    }
    result = plain(result)
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return result


def _analyse_groups(
    table: Measurements, options: LawOptions
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """The groups that have a law, those that have a curve along one axis, and those with neither."""
    groups = [(group, table.select(**group)) for group in table.groups]
    mean = table.mean_of_suites()
    if mean is not None:
        groups += [(group, mean.select(**group)) for group in mean.groups]
    fits, axes, skipped = [], [], []
    for group, rows in groups:
        try:
            fits.append(group | analyse_group(rows, options))
        except UserError as error:
            curve = _along_one_axis(rows)
            if curve is None:
                skipped.append(group | {"why": str(error), "cells": rows.frame[["N", "V", "error"]].to_dict("records")})
            else:
                axes.append(group | curve)
    return fits, axes, skipped


def read_analysis(path: str | Path) -> dict[str, Any]:
    """Read an analysis that `analyse` wrote. Raises UserError if the file does not hold one.

    >>> from tempfile import TemporaryDirectory
    >>> from vlmlaw.laws import read_measurements
    >>> options = LawOptions(candidates=("logit",), bootstrap_draws=0)
    >>> with TemporaryDirectory() as folder:
    ...     _ = analyse(read_measurements("li2024_reasoning"), options, out=Path(folder, "law.json"))
    ...     read_analysis(Path(folder, "law.json"))["fits"][0]["formula"]
    'logit(1 - error) = c0 + a ln N + b ln V'
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as the analysis of a law: {error}") from error
    if not isinstance(data, dict) or data.get("kind") != JSON_KIND:
        raise UserError(f"{path} holds no law's analysis; make one with `vlmlaw law fit TABLE --out {path}`")
    return data


def analyse_group(rows: Measurements, options: LawOptions) -> dict[str, Any]:
    """Analyse one group of rows (see Measurements.groups). Rows flagged as held out are excluded from the fit."""
    flagged = rows.frame["held_out"].to_numpy(dtype=bool) & (options.hold_out == "auto")
    every = rows.cells(weights=options.weights)
    cells = every.take(~flagged) if flagged.any() else every
    comparison = _compare(cells, options)
    if options.law == AUTO:
        fit, why = comparison.best, comparison.why
    else:
        fit = comparison.fits.get(options.law) or fit_cells(cells, options.law, loss=options.loss)
        if not fit.has_rho:
            fit = comparison.with_rivals(options.law) if options.law in comparison.fits else fit
        why = f"{options.law} was asked for; by itself the choice would be {comparison.chosen}"
    held = _hold_out(every, flagged, fit, options)
    return {
        "n_cells": len(cells),
        "n_held_out": int(flagged.sum()),
        "law": fit.law.name,
        "why": why,
        "verdict": verdict(fit, hold_out=held, level=options.level, shared_trainings=rows.shared_trainings),
        "formula": fit.law.formula,
        "fit": fit.to_dict(),
        "r_squared": fit.r_squared,
        "aicc": fit.aicc,
        "laws": comparison.table.reset_index().to_dict("records"),
        "refused": comparison.refused,
        "summary": fit.summary(options.level).reset_index().to_dict("records"),
        **_uncertainty(fit, every, options),
        "cost_frontier": _cost_frontier(rows, fit, options),
        "average": _average(comparison),
        "d_profile": d_profile(fit).to_dict("records") if cells.error.min() > 0 else [],
        "hold_out": None if held is None else held.to_dict(),
        "cells": _cells_table(every, flagged, fit).to_dict("records"),
    }


def _require_usable(table: Measurements, options: LawOptions, *, allow_none: bool) -> list[Finding]:
    """The linter's warnings; a table of one size or one V is usable, too. Raises UserError for other errors.

    Along one axis a kind of question may have the same error everywhere, as long as not every kind has, unless there
    may be no law.
    """
    found = lint(table, allow_missing=options.allow_missing)
    errors = {finding.code for finding in found if finding.severity == "error"}
    varies = any(np.ptp(table.select(**group).frame["error"].to_numpy(dtype=float)) > 0 for group in table.groups)
    if errors <= {*ONE_AXIS, *(["constant-error"] if varies or allow_none else [])}:
        return [replace(finding, severity="warning") for finding in found]
    return require_clean(table, allow_missing=options.allow_missing)


def _along_one_axis(rows: Measurements) -> dict[str, Any] | None:
    """The error of rows of one size, or of one V, along the other; None if they are no such rows."""
    from vlmlaw.laws.one_axis import along_one_axis  # scipy.optimize takes a while to load

    try:
        curve = along_one_axis(rows.cells(), questions=float(rows.frame["n_questions"].median()))
    except UserError:
        return None
    return curve.to_dict()


def _compare(cells: Cells, options: LawOptions) -> Comparison:
    candidates = list(options.candidates)
    if candidates and options.law not in (AUTO, *candidates):
        candidates.append(options.law)
    return compare_laws(cells, candidates, loss=options.loss)


def _cells_table(cells: Cells, flagged: Array, fit: LawFit) -> pd.DataFrame:
    predicted = fit.predict(cells.n, cells.v)
    columns = {"N": cells.n, "V": cells.v, "error": cells.error, "predicted": predicted}
    return pd.DataFrame({**columns, "residual": cells.error - predicted, "held_out": flagged})


def _uncertainty(fit: LawFit, cells: Cells, options: LawOptions) -> dict[str, Any]:
    """rho, V* and the frontier with their intervals; rho and V* are those of the best law with a single rho."""
    index, draws = fit.index_fit, _draws(fit, options)
    intervals: list[Interval] = []
    if index is not None:
        methods = ("integrated", "profile", "fieller")
        intervals = [rho_interval(index, level=options.level, method=method) for method in methods]
        of_index = draws if index is fit else _draws(index, options)
        intervals += [found.rho_interval(level=options.level) for found in of_index]
        if options.size_effects:
            intervals.append(size_effects_interval(index, options))
    stars = v_star(
        fit if index is None else index,
        options.question_tokens,
        generated_tokens=options.generated_tokens,
        question_pass=options.question_pass,
        pass_tokens=options.pass_tokens,
        level=options.level,
        tolerance=options.flat_tolerance,
    )
    return {
        "rho": None
        if index is None
        else intervals[0].to_dict() | {"law": index.law.name, "behind": index.aicc - fit.aicc},
        "rho_intervals": [interval.to_dict() for interval in intervals],
        "rho_profile": [] if index is None else rho_profile(index).to_dict("records"),
        "v_star": stars.to_dict("records"),
        "frontier": _frontiers(fit, cells, draws[0] if draws else None, options),
    }


def size_effects_interval(fit: LawFit, options: LawOptions) -> Interval:
    """rho with a random effect for each size. Raises UserError if it cannot be estimated."""
    from vlmlaw.laws.mixed import size_effects  # statsmodels takes a second to import

    return size_effects(fit, level=options.level).rho


def _draws(fit: LawFit, options: LawOptions) -> list[Draws]:
    """Draws of the residual and of the whole-size bootstrap, without those that fail."""
    found = []
    for resample in (residual_bootstrap, size_bootstrap) if options.bootstrap_draws else ():
        with contextlib.suppress(UserError):  # the list of intervals then lacks this method
            found.append(resample(fit, n_draws=options.bootstrap_draws, seed=options.seed))
    return found


def _average(comparison: Comparison) -> dict[str, float] | None:
    """rho averaged over the laws; None if no law has a rho, or if the rho of one law is infinite."""
    try:
        rho, se = comparison.average().rho()
    except UserError:
        return None
    return {"rho": rho, "se": se} if math.isfinite(rho) else None


def _hold_out(cells: Cells, flagged: Array, fit: LawFit, options: LawOptions) -> HoldOut | None:
    """The requested hold-out; None if there is none, or if the default one would leave too few cells to fit."""
    if options.hold_out == "none":
        return None
    size = None if isinstance(options.hold_out, str) else options.hold_out
    rows = flagged if flagged.any() else None
    try:
        law = AUTO if options.law == AUTO else fit.law.name
        return hold_out(
            cells, law, rows=rows, size=size, loss=options.loss, level=options.level, candidates=options.candidates
        )
    except UserError:
        if options.hold_out == "auto":
            return None
        raise


def _frontiers(fit: LawFit, cells: Cells, draws: Draws | None, options: LawOptions) -> list[dict[str, Any]]:
    """A row for each Q and budget, over the requested sizes and token counts, or else all measured ones."""
    sizes, tokens = options.sizes or tuple(cells.sizes), options.tokens or tuple(cells.token_counts)
    n, v = (x.ravel() for x in np.meshgrid(np.array(sizes, float), np.array(tokens, float), indexing="ij"))
    predicted = Predicted.of(fit, n, v, level=options.level, draws=draws)
    rows: list[dict[str, Any]] = []
    for q in options.question_tokens:
        cost = Cost(
            question_tokens=q,
            generated_tokens=options.generated_tokens,
            vision_flops=options.vision_flops,
            question_pass=options.question_pass,
            pass_tokens=options.pass_tokens,
        )
        table = frontier(
            fit,
            sizes=sizes,
            tokens=tokens,
            cost=cost,
            budgets=options.budgets,
            tolerance=options.flat_tolerance,
            level=options.level,
            draws=draws,
            predicted=predicted,
        )
        rows += [{"question_tokens": q, "cost_model": cost.name} | row for row in table.to_dict("records")]
    return rows


def _cost_frontier(rows: Measurements, fit: LawFit, options: LawOptions) -> list[dict[str, Any]]:
    """The frontier of the measured cells over `options.cost_column`; empty without such a column."""
    if not options.cost_column:
        return []
    cost = ColumnCost.from_table(rows, options.cost_column)
    sizes, tokens = rows.frame["N"].unique(), rows.frame["V"].unique()
    table = frontier(fit, sizes=sizes, tokens=tokens, cost=cost, tolerance=options.flat_tolerance, level=options.level)
    return [{"cost_model": cost.name} | row for row in table.to_dict("records")]


def plain(value: Any) -> Any:
    """Convert a value to what JSON can hold: no numpy types, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
