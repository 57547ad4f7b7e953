"""Summary of a study in a few numbers and one table, for tools that compare runs (`dvc metrics`, `dvc plots`).

metrics/{suite}.json: rho and V*(Q) with intervals, and the mean error; metrics/trainings.json: hours of training.
errors.csv: one row for each suite, size, V and compressor, the mean of its seeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.analysis import read_analysis
from vlmlaw.laws.table import ALL_KINDS
from vlmlaw.runtime.whole_files import whole_file, whole_folder

METRICS, ERRORS = "metrics", "errors.csv"
DIGITS = 4
CELL = ["suite", "compressor", "size", "n_params", "n_visual_tokens"]


def write_headline(law: Path, measurements: Path, results: Path, out: Path) -> None:
    """Write the folder metrics/ and errors.csv of a law and its measurements into `out`.

    `results` is the folder with the trainings: encoder/, language_models/ and cells/. Raises UserError if a file
    cannot be read.
    """
    table = _whole_suites(measurements)
    metrics = _suites(read_analysis(law), table)
    metrics["trainings"] = _trainings(results, table)
    with whole_file(out / ERRORS) as partial:
        errors_of(table).to_csv(partial, index=False)
    with whole_folder(out / METRICS) as folder:
        for name, numbers in metrics.items():
            (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")


def errors_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean error of each suite and cell over its seeds, with the LLM's FLOPs for one question."""
    means = table.groupby(CELL, sort=False, as_index=False).agg(
        error=("error", "mean"), llm_flops=("llm_flops", "mean"), n_seeds=("seed", "nunique")
    )
    return means.sort_values(CELL).round({"error": 6})


def _whole_suites(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
        return table[table.kind == ALL_KINDS]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no table of measurements ({error!r}); `vlmlaw collect` writes one.") from error


def _suites(analysis: dict[str, Any], table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers of each suite, and of each compressor if laws were fitted to several."""
    question_tokens = table.n_text_tokens.mean()
    fits = [fit for fit in analysis["fits"] if fit["kind"] == ALL_KINDS]
    several = len({fit.get("compressor") for fit in fits}) > 1
    found = {}
    for fit in fits:
        name, rows = fit["suite"], table[table.suite == fit["suite"]]
        if fit.get("compressor"):
            name, rows = name + several * f"_{fit['compressor']}", rows[rows.compressor == fit["compressor"]]
        star = min(fit["v_star"], key=lambda row: abs(row["question_tokens"] - question_tokens), default=None)
        numbers: dict[str, Any] = {"mean_error": round(float(rows.error.mean()), DIGITS)} if len(rows) else {}
        numbers |= _interval("rho", fit["rho"], "estimate") | _interval("v_star", star, "v_star")
        numbers |= {"question_tokens": star and star["question_tokens"], "law": fit["law"]}
        found[name.replace(" ", "_")] = numbers
    # Of one size or one V, without rho, or too few for either; older analyses have no such entry.
    for group in (*analysis.get("axes", []), *analysis.get("skipped", [])):
        name, of = group["suite"], table[table.suite == group["suite"]]
        if group.get("compressor"):
            name, of = f"{name}_{group['compressor']}", of[of.compressor == group["compressor"]]
        if group["kind"] == ALL_KINDS and len(of):
            mean = round(float(of.error.mean()), DIGITS)
            flat = {"flat_from": group["flat_from"]} if "flat_from" in group else {}
            found.setdefault(name.replace(" ", "_"), {"mean_error": mean} | flat)
    return found


def _interval(name: str, row: dict[str, Any] | None, middle: str) -> dict[str, float | None]:
    """Return an estimate and the ends of its interval; null where the data do not bound them."""
    keys = {name: middle, f"{name}_lower": "lower", f"{name}_upper": "upper"}
    values = {label: (row or {}).get(key) for label, key in keys.items()}
    return {label: None if value is None else round(value, DIGITS) for label, value in values.items()}


def _trainings(results: Path, table: pd.DataFrame) -> dict[str, Any]:
    """Return the hours of everything trained for the table, and GPU-hours: wall time x GPUs of the job."""
    names = set(table.training if "training" in table else table.cell)  # one training may serve many cells
    folders = [results / "cells" / name for name in sorted(names)]
    stages_1 = {_of_any_seed(name) for name in names}
    folders += [path for path in sorted(results.glob("cells/*/stage_1")) if _of_any_seed(path.parent.name) in stages_1]
    folders += [results / "encoder", *_pretrained(results / "language_models", table)]
    accounts = [account for folder in folders if (account := _account(folder))]
    seconds = [(account.get("wall_seconds", 0.0), account.get("compute", {}).get("gpus", 0)) for account in accounts]
    return {
        "cells": table.cell.nunique(),
        "hours": round(sum(wall for wall, _ in seconds) / 3600, DIGITS),
        "gpu_hours": round(sum(wall * n_gpus for wall, n_gpus in seconds) / 3600, DIGITS),
    }


def _pretrained(folder: Path, table: pd.DataFrame) -> list[Path]:
    """Where the language models of the table's cells lie: those of each seed, or those that all seeds share."""
    of_seeds = [
        folder / f"{size}_s{seed}" for size, seed in sorted(set(zip(table["size"], table["seed"], strict=True)))
    ]
    return [path for path in of_seeds if path.is_dir()] or [folder / size for size in table["size"].unique()]


def _of_any_seed(name: str) -> str:
    """Return a training's name without its seed, because seeds may share a stage 1."""
    return name.rpartition("_s")[0]


def _account(folder: Path) -> dict[str, Any]:
    """Read a training's training.json; {} for a cell that was measured elsewhere."""
    path = folder / "training.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not what a training writes ({error}); train it again.") from error
