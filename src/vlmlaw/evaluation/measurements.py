"""measurements.csv, the table that joins both halves of the workflow: cells write to it, laws are fitted to it.

It has one row for each cell, suite and kind of question; the kind `all` is the whole suite. In a suite of benchmarks
each benchmark is a kind, and the suite is their mean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.scores import Score, mean_score
from vlmlaw.laws.table import ALL_KINDS
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.vlm.cell_name import cell_named_in

COLUMNS = {
    "cell": "name of the cell's folder",
    "size": "name of the language model's size",
    "seed": "seed of the cell's training",
    "compressor": "how patches become visual tokens",
    "n_visual_tokens": "V, visual tokens that the LLM reads, on the average of its layers",
    "kept_tokens": "visual tokens that are kept to the end: V, but for methods inside the LLM",
    "n_params": "N, parameters of the LLM without its embeddings and without experts that a token does not pass",
    "n_params_total": "parameters of the LLM, embeddings included",
    "n_text_tokens": "Q, text tokens of one prompt",
    "question_tokens": "tokens of the question alone, without template: what QueCC's pass reads",
    "suite": "suite of questions",
    "kind": "kind of question, or benchmark; `all` is the suite",
    "n_questions": "questions asked",
    "error": "share answered wrongly",
    "error_se": "its standard error over test images (clustered by image)",
    "unread": "share of replies that could not be read, each counted as its metric says; empty where unknown",
    "doubt": "mean of 1 - probability of the right answer; empty where only replies were seen",
    "llm_flops": "FLOPs of the LLM to read one image with one question",
    "vision_flops": "FLOPs of the vision encoder for one image",
    "compressor_flops": "FLOPs of compressor, projector and pass over the question",
    "held_out": "True where the law is to predict, not to fit",
    "training": "the training whose weights the cell has; cells that name one training share them",
    "train_seconds": "wall seconds of that training",
}


def rows_of(evaluation: dict[str, Any], *, held_out_size: str | None) -> list[dict[str, Any]]:
    """The rows of measurements.csv from one evaluation of a cell, on the test split or on a benchmark."""
    settings, flops = evaluation["cell"], evaluation["flops"]
    common = {
        "cell": cell_named_in(settings),
        "size": settings["size"],
        "seed": settings["seed"],
        "compressor": settings["compressor"],
        "n_visual_tokens": _plain(evaluation["visual_tokens"]),
        "kept_tokens": settings["n_visual_tokens"],
        "n_params": evaluation["parameters"].get("llm_active", evaluation["parameters"]["llm_non_embedding"]),
        "n_params_total": evaluation["parameters"]["llm"],
        "n_text_tokens": evaluation["n_text_tokens"],
        "question_tokens": evaluation["question_tokens"],
        "llm_flops": flops["llm"],
        "vision_flops": flops["vision"],
        "compressor_flops": flops["compressor"] + flops["projector"] + flops["question_pass"],
        "held_out": settings["size"] == held_out_size,
        "training": evaluation["training"],
        "train_seconds": round(evaluation["train_seconds"], 1),
    }
    return [
        common | {"suite": suite, "kind": kind, "unread": None, "doubt": None} | score
        for suite, kinds in evaluation["scores"].items()
        for kind, score in kinds.items()
    ]


def _plain(number: float) -> float | int:
    """Whole numbers as such, so that a table reads 16 and 51.5, not 16.0."""
    return int(number) if number == int(number) else number


def collect(evaluations: Sequence[Path], out: Path, *, held_out: str | None) -> None:
    """Write the measurements of evaluations, `<cell>/evaluation.json` and `<cell>/benchmarks/*.json`, to `out` (CSV).

    Raises UserError when there are none, one cannot be read, lacks a figure or is given twice, or a cell lacks a
    benchmark that others have: a failed cell is missing, never a row of zeros.
    """
    if not evaluations:
        raise UserError("no evaluations given; expected at least one results/cells/<cell>/evaluation.json.")
    rows = [row for path in map(Path, evaluations) for row in _read(path, held_out=held_out)]
    table = pd.DataFrame(rows)[list(COLUMNS)].astype({"n_visual_tokens": object})
    names = table.groupby(["cell", "suite", "kind"]).size()
    if (names > 1).any():
        cell, suite, kind = names[names > 1].index[0]
        what = "" if kind == ALL_KINDS else f" ({suite}: {kind})"
        raise UserError(f"the cell {cell}{what} was given twice; give each evaluation once.")
    table = pd.concat([table, *_suites_of_benchmarks(table)], ignore_index=True)
    table = table.sort_values(["suite", "kind", "compressor", "n_params", "n_visual_tokens", "seed", "cell"])
    with whole_file(out) as partial:
        table.to_csv(partial, index=False)


def _suites_of_benchmarks(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The row `all` of each suite of benchmarks for each cell: the mean of its benchmarks."""
    whole = set(table[table.kind == ALL_KINDS].suite)
    made = []
    for suite, of_suite in table[~table.suite.isin(whole)].groupby("suite"):
        wanted = set(of_suite.kind)
        for cell, own in of_suite.groupby("cell"):
            missing = sorted(wanted - set(own.kind))
            if missing:
                raise UserError(
                    f"the cell {cell} lacks {', '.join(missing)} of the suite {suite}, which other cells have; a mean "
                    "over other benchmarks could not be compared. Evaluate the cell on it, or leave it out of all."
                )
            mean = mean_score([Score(row.error, row.error_se, row.n_questions, row.unread) for row in own.itertuples()])
            # What an answer costs is the mean question's: prompts differ in length from benchmark to benchmark.
            costs = {
                key: round(own[key].mean())
                for key in ("n_text_tokens", "question_tokens", "llm_flops", "compressor_flops")
            }
            made.append(own.head(1).assign(kind=ALL_KINDS, **vars(mean), **costs))
    return made


def _read(path: Path, *, held_out: str | None) -> list[dict[str, Any]]:
    """The measurements of one evaluation.json, each with every column."""
    try:
        rows = rows_of(json.loads(path.read_text()), held_out_size=held_out)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no evaluation of a cell ({error!r}); run `vlmlaw evaluate` on it.") from error
    if not rows:
        raise UserError(f"{path} holds no score; evaluate that cell on a split that has questions.")
    for row in rows:
        wrong = sorted(set(COLUMNS) ^ set(row)) or [name for name, value in row.items() if value != value]
        if wrong:
            raise UserError(
                f"{path}, {row['suite']} {row['kind']}: {', '.join(wrong)} is missing, unknown or not a number; "
                "run `vlmlaw evaluate` on it."
            )
    return rows
