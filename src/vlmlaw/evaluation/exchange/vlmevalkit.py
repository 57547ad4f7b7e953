"""Scores from folders of VLMEvalKit: MODEL/[RUN/]MODEL_DATASET[_JUDGE]_{acc,score}.{csv,xlsx,json}.

Its code writes tables of these kinds: `split` and `Overall` as fractions (multiple choice), `Overall` in per cent (open
questions, yes or no), `perception` and `reasoning` in points (MME), a row `Overall` with `acc` in per cent (MM-Vet,
MathVista), `aAcc`, `fAcc`, `qAcc` (HallusionBench), and a JSON with `Final Score` of 1000 (OCRBench).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.exchange.score import Choices, FoundScore, choose_metric, error_of, is_number

NAME = re.compile(r"^(?P<stem>.+)_(?P<kind>acc|score)\.(?P<type>csv|xlsx|json)$")
_JUDGE = re.compile(
    r"^(?P<dataset>.+?)_(?P<judge>(?:chatgpt|gpt|exact_matching|claude|llama|qwen|deepseek)[\w.-]*)$", re.I
)
_MME = {"perception": 2000.0, "reasoning": 800.0}
_HALLUSION = ("aAcc", "fAcc", "qAcc")
_LABELS = ("split", "Category", "Task&Skill", "category", "task")


def read_table(path: Path, choices: Choices, notes: list[str], known: Sequence[str] = ()) -> Iterator[FoundScore]:
    """The scores in one file of VLMEvalKit. Raises UserError for metrics that are open and values out of range.

    The file's name begins with the model's, which is that of a folder above, or else one of those that are known.
    """
    match = NAME.match(path.name)
    assert match is not None, path
    names = [*(folder.name for folder in path.parents if folder.name), *sorted(known, key=len, reverse=True)]
    model = next((name for name in names if match["stem"].startswith(f"{name}_")), None)
    if model is None:
        notes.append(
            f"{path}: neither a folder above nor a line of the models file has the model that its name begins with"
        )
        return
    dataset, judge = match["stem"].removeprefix(f"{model}_"), ""
    if by_judge := _JUDGE.match(dataset):
        dataset, judge = by_judge["dataset"], f", judged by {by_judge['judge']}"
    for suite, metric, score, most in _scores(path, dataset, match["kind"], choices, notes):
        yield FoundScore(
            model=model,
            suite=suite,
            metric=metric + judge,
            error=error_of(score, suite=suite, metric=metric, most=most, lower_is_better=False, path=path),
            path=path,
            settings=path.parent.name,
        )


def _scores(
    path: Path, dataset: str, kind: str, choices: Choices, notes: list[str]
) -> Iterator[tuple[str, str, float, float]]:
    """Suite, metric, score and what it can reach."""
    if path.suffix == ".json":
        yield from _of_json(path, dataset, notes)
        return
    table = _read(path)
    wanted = choices.metrics.get(dataset)
    if set(_MME) <= set(table.columns) and wanted is None:
        yield dataset, "perception + reasoning", float(table[list(_MME)].iloc[0].sum()), sum(_MME.values())
        return
    label = next((name for name in _LABELS if name in table.columns), None)
    rows = _rows(table, label, kind)
    if rows is None:
        notes.append(f"{path}: a table of another kind, with {', '.join(map(str, table.columns[:6]))}")
        return
    fractions = label == "split" and kind == "acc"  # as report_acc writes them; everything else is in per cent
    for part, row in rows:
        found = {str(name): float(value) for name, value in row.items() if is_number(value)}
        metric = _metric(found, wanted, suite=dataset, path=path)
        suite = dataset if len(rows) == 1 else f"{dataset} {part}"
        yield (
            suite,
            "F1" if metric == "Overall" and "precision" in found else metric,
            found[metric],
            1.0 if fractions else 100.0,
        )


def _rows(table: pd.DataFrame, label: str | None, kind: str) -> list[tuple[str, Mapping[Any, Any]]] | None:
    """The rows that stand for the whole: of each split, or the one called Overall; None for a table of another kind."""
    if label is None:
        return [("", table.iloc[0].to_dict())] if len(table) == 1 and "Overall" in table.columns else None
    records = [(str(row[label]), row) for row in table.to_dict("records")]
    if whole := [(part, row) for part, row in records if part.lower() == "overall"]:
        return whole
    return records if label == "split" and kind == "acc" and "Overall" in table.columns else None


def _metric(found: Mapping[str, float], wanted: str | None, *, suite: str, path: Path) -> str:
    for name in ("Overall", "acc", "Relative Score (main)"):
        if wanted is None and name in found:
            return name
    open_ones = {name: found[name] for name in _HALLUSION if name in found} if wanted is None else dict(found)
    return choose_metric(open_ones or dict(found), wanted, suite=suite, path=path)


def _of_json(path: Path, dataset: str, notes: list[str]) -> Iterator[tuple[str, str, float, float]]:
    import json

    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict) and is_number(data.get("Final Score")):
        yield dataset, "Final Score", float(data["Final Score"]), 1000.0
    else:
        notes.append(f"{path}: a JSON of another kind")


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_excel(path) if path.suffix == ".xlsx" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a table of VLMEvalKit: {error}") from error
    return table.drop(columns=[name for name in table.columns if str(name).startswith("Unnamed")])
