"""From a folder of results to the table that `vlmlaw law fit` reads."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.exchange import every_eval, lmms_eval, vlmevalkit
from vlmlaw.evaluation.exchange.models import ModelLine, line_of, read_models
from vlmlaw.evaluation.exchange.score import Choices, FoundScore

FIRST = ("model", "params_b", "visual_tokens")
SCORES = ("suite", "kind", "error", "error_se", "n_questions", "metric")


def gather(
    folder: Path, models: Path | None, choices: Choices | None = None, *, latest: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """The table of a folder's scores, and what there is to say of it.

    models: the CSV that maps a model to N and V; records of a published grid need none. latest: of several runs of one
    model on one suite take the last by name. Raises UserError for an unknown model (with the line to add), for a suite
    with different metrics, for several runs, and for a folder without scores.
    """
    notes: list[str] = []
    lines = read_models(models) if models else []
    scores = read_scores(folder, choices or Choices(), notes, known=[line.model for line in lines])
    if not scores:
        seen = "; ".join(notes[:3]) or "no file of theirs"
        raise UserError(
            f"{folder} holds no scores of lmms-eval (..._results.json, ..._samples_TASK.jsonl), VLMEvalKit "
            f"(MODEL_DATASET_acc.csv) or Every Eval Ever ({seen})"
        )
    _require_one_metric(scores)
    rows = [_row(score, line) for score, line in _with_lines(scores, lines, models)]
    frame = _one_run_each(pd.DataFrame(rows), latest=latest, notes=notes)
    notes += _of_metrics(scores)
    order = [*FIRST, *(c for c in frame if c not in (*FIRST, *SCORES, "file")), *(c for c in SCORES if c in frame)]
    by = [
        name
        for name in ("params_b", "visual_tokens", "compressor", "seed", "cell", "model", "suite", "kind")
        if name in frame
    ]
    return frame[order].sort_values(by, kind="stable").dropna(axis=1, how="all").reset_index(drop=True), notes


def read_scores(folder: Path, choices: Choices, notes: list[str], *, known: Sequence[str] = ()) -> list[FoundScore]:
    """Every score in a folder, by the kind that each file shows; links to a file count as that file.

    known: names of models, for files that lie in no folder of theirs.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected one with results of lmms-eval, VLMEvalKit or Every Eval Ever")
    scores: list[FoundScore] = []
    seen: set[Path] = set()
    with_results: set[tuple[Path, str]] = set()
    samples: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.resolve() in seen:
            continue
        seen.add(path.resolve())
        if vlmevalkit.NAME.match(path.name):
            scores += vlmevalkit.read_table(path, choices, notes, known)
        elif path.suffix == ".json":
            data = _json(path)
            if lmms_eval.is_results(data):
                with_results.add((path.parent, re.sub(r"_?results$", "", path.stem)))
                scores += lmms_eval.read_results(path, data, choices, notes)
            elif every_eval.is_record(data):
                scores += every_eval.read_record(path, data, choices)
            else:
                notes.append(f"{path}: a JSON of another kind")
        elif lmms_eval.SAMPLES.match(path.name):
            samples.append(path)
    for path in samples:  # of runs whose results are not there
        run = lmms_eval.SAMPLES.match(path.name)
        if run and (path.parent, run["run"]) not in with_results:
            scores += lmms_eval.read_samples(path, choices)
    return scores


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no JSON: {error}. Take it out of the folder") from error


def _require_one_metric(scores: Sequence[FoundScore]) -> None:
    """Refuse a suite that two files judge by different metrics."""
    first: dict[str, FoundScore] = {}
    for score in scores:
        other = first.setdefault(score.suite, score)
        if other.metric != score.metric:
            raise UserError(
                f"{score.suite} is judged by {other.metric} in {other.path} and by {score.metric} in {score.path}; a "
                f"suite has one metric: say which, as in --metric '{score.suite}=NAME', or keep one of the files"
            )


def _of_metrics(scores: Sequence[FoundScore]) -> list[str]:
    """Say which suite is judged by what, where that differs."""
    by_metric: dict[str, list[str]] = {}
    for suite, metric in {score.suite: score.metric for score in scores}.items():
        by_metric.setdefault(metric, []).append(suite)
    if len(by_metric) < 2:
        return []
    shown = "; ".join(f"{metric}: {', '.join(suites)}" for metric, suites in by_metric.items())
    return [f"the suites are judged by {len(by_metric)} metrics, each made an error in [0, 1] ({shown})"]


def _with_lines(
    scores: Sequence[FoundScore], lines: Sequence[ModelLine], models: Path | None
) -> list[tuple[FoundScore, ModelLine | None]]:
    """Each score with the line of its model. Raises UserError that shows the lines to add."""
    found: list[tuple[FoundScore, ModelLine | None]] = []
    unknown: dict[str, FoundScore] = {}
    for score in scores:
        line = line_of(score, lines, models)
        if line is None and "visual_tokens" not in score.details:
            unknown.setdefault(score.model, score)
        elif line is not None and not line.columns.get("params_b") and score.n_params is None:
            raise UserError(
                f"{models} line {line.number}: params_b of {score.model} is blank, and {score.path} does not say it; "
                "write N in billions"
            )
        else:
            found.append((score, line))
    if unknown:
        where = f"{models} has no line for" if models else "no --models FILE says N and V of"
        shown = "\n".join(f"  {name},{_billions(score) or 'BILLIONS'},TOKENS" for name, score in unknown.items())
        raise UserError(
            f"{where} {', '.join(unknown)} (in {next(iter(unknown.values())).path}). Add, with the visual tokens of an "
            f"image, below the line model,params_b,visual_tokens:\n{shown}"
        )
    return found


def _billions(score: FoundScore) -> str:
    return "" if score.n_params is None else f"{score.n_params / 1e9:.6g}"


def _row(score: FoundScore, line: ModelLine | None) -> dict[str, Any]:
    columns = dict(line.columns) if line else {}
    if not columns.get("params_b"):
        columns["params_b"] = _billions(score)
    return {
        "model": line.model if line else score.model,
        **columns,
        **score.details,
        "suite": score.suite,
        "error": score.error,
        "error_se": score.error_se if score.error_se is not None else np.nan,
        "n_questions": score.n_questions,
        "metric": score.metric,
        "file": str(score.path),
    }


def _one_run_each(frame: pd.DataFrame, *, latest: bool, notes: list[str]) -> pd.DataFrame:
    """One row for each cell and suite. Raises UserError for several, unless the last is to be taken."""
    values = ("error", "error_se", "n_questions", "metric", "file")
    keys = [name for name in frame.columns if name not in values]
    frame = frame.fillna({name: "" for name in keys}).astype({"params_b": float, "visual_tokens": float})
    again = frame.duplicated(keys, keep="last")
    if again.any() and not latest:
        row = frame[again].iloc[0]
        same = frame[(frame[keys] == row[keys]).all(axis=1)]
        raise UserError(
            f"{row['model']} has {len(same)} scores on {row['suite']}: {', '.join(same['file'])}. Keep one, take the "
            "last by --latest, or tell them apart by `where` and a column such as seed"
        )
    if again.any():
        notes.append(f"{int(again.sum())} earlier runs left out")
    return frame[~again]
