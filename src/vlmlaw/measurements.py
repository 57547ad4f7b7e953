"""measurements.csv, the waist of the workflow: cells end in it, and laws start from it.

One row for each cell, suite and kind of question; the kind `all` is the whole suite.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.files import whole_file

COLUMNS = {
    "cell": "name of the cell's folder",
    "size": "name of the language model's size",
    "seed": "seed of the cell's training",
    "compressor": "how patches become visual tokens",
    "n_visual_tokens": "V",
    "n_params": "N, parameters of the LLM without its embeddings",
    "n_params_total": "parameters of the LLM, embeddings included",
    "n_text_tokens": "Q, text tokens of one question",
    "suite": "suite of questions",
    "kind": "kind of question; `all` is the suite",
    "n_questions": "questions asked",
    "error": "share answered wrongly",
    "error_se": "its standard error over test images (clustered by image)",
    "llm_flops": "FLOPs of the LLM to read one image with one question",
    "vision_flops": "FLOPs of the vision encoder for one image",
    "compressor_flops": "FLOPs of compressor, projector and pass over the question",
    "held_out": "True where the law is to predict, not to fit",
    "training": "the training whose weights the cell has; cells that name one training share them",
    "train_seconds": "wall seconds of that training",
}


def rows_of(evaluation: dict[str, Any], *, cell: str, held_out_size: str | None) -> list[dict[str, Any]]:
    """The measurements of one cell's evaluation.json."""
    settings, flops = evaluation["cell"], evaluation["flops"]
    common = {
        "cell": cell,
        "size": settings["size"],
        "seed": settings["seed"],
        "compressor": settings["compressor"],
        "n_visual_tokens": settings["n_visual_tokens"],
        "n_params": evaluation["parameters"]["llm_non_embedding"],
        "n_params_total": evaluation["parameters"]["llm"],
        "n_text_tokens": evaluation["n_text_tokens"],
        "llm_flops": flops["llm"],
        "vision_flops": flops["vision"],
        "compressor_flops": flops["compressor"] + flops["projector"] + flops["question_pass"],
        "held_out": settings["size"] == held_out_size,
        "training": evaluation["training"],
        "train_seconds": round(evaluation["train_seconds"], 1),
    }
    return [
        common | {"suite": suite, "kind": kind} | score
        for suite, kinds in evaluation["scores"].items()
        for kind, score in kinds.items()
    ]


def collect(evaluations: Sequence[Path], out: Path, *, held_out: str | None) -> None:
    """Write the measurements of all evaluations, `<cell>/evaluation.json` each, to `out` (CSV).

    Raises UserError when there are none, or one cannot be read, lacks a figure or is given twice: a failed cell is
    missing, never a row of zeros.
    """
    if not evaluations:
        raise UserError("no evaluations given; expected at least one results/cells/<cell>/evaluation.json.")
    rows = [row for path in map(Path, evaluations) for row in _read(path, held_out=held_out)]
    table = pd.DataFrame(rows)[list(COLUMNS)]
    names = table.groupby(["cell", "suite", "kind"]).size()
    if (names > 1).any():
        raise UserError(f"the cell {names[names > 1].index[0][0]} was given twice; give each evaluation once.")
    table = table.sort_values(["suite", "kind", "compressor", "n_params", "n_visual_tokens", "seed", "cell"])
    with whole_file(out) as partial:
        table.to_csv(partial, index=False)


def _read(path: Path, *, held_out: str | None) -> list[dict[str, Any]]:
    """The measurements of one evaluation.json, each with every column."""
    try:
        rows = rows_of(json.loads(path.read_text()), cell=path.parent.name, held_out_size=held_out)
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
