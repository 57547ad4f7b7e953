"""Tables of cells: error, tokens and times of each, and measurements.csv, from which laws are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlmlaw.evaluation.measurements import COLUMNS
from vlmlaw.evaluation.measuring.cells import OWN, Cell, plain_name
from vlmlaw.evaluation.scores import score
from vlmlaw.laws.table import ALL_KINDS
from vlmlaw.runtime.whole_files import whole_file


def cell_table(judged: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """One row for each cell, in the order of `cells`: error with its standard error, V, Q, tokens and times."""
    of = {cell.name: cell for cell in cells}
    rows = []
    for name in [cell.name for cell in cells if cell.name in set(judged.cell)]:
        own = judged[judged.cell == name]
        model = of[name].model
        v = own.n_visual_tokens[own.height > 0]
        tokens = own[["n_visual_tokens", "n_text_tokens", "n_generated_tokens"]].sum(axis=1, skipna=False)
        rows.append(
            {
                "cell": name,
                "model": model.name,
                "family": model.family,
                "compressor": model.compressor or OWN,
                "n_params": model.n_params,
                "budget": own.budget.iloc[0],
                **_score(own),
                "n_visual_tokens": v.mean() if len(v) else 0.0,
                "v_least": v.min() if len(v) else 0.0,
                "v_most": v.max() if len(v) else 0.0,
                "v_source": own.v_source.iloc[-1],
                "n_text_tokens": own.n_text_tokens.mean(),
                "n_generated_tokens": own.n_generated_tokens.mean(),
                "first_token_ms": own.first_token_ms.median(),
                "first_token_ms_p95": own.first_token_ms.quantile(0.95),
                "total_ms": own.total_ms.median(),
                "total_ms_p95": own.total_ms.quantile(0.95),
                "tokens": tokens.mean(),
                "flops": 2 * (model.n_params if model.n_params is not None else np.nan) * tokens.mean(),
                "cached_share": own.n_cached_tokens.sum() / max((own.n_text_tokens + own.n_visual_tokens).sum(), 1),
                "cut": own.cut.mean(),
            }
        )
    return pd.DataFrame(rows)


def measurement_rows(judged: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """Rows of measurements.csv, with its columns and the measured times: cells that show an image, of a known size.

    V is the mean that was counted. A row is a cell and kind of question; the kind `all` is the whole suite.
    """
    rows = []
    for cell in cells:
        of_cell = judged[judged.cell == cell.name]
        if of_cell.empty or cell.budget == 0 or cell.model.n_params is None:
            continue
        v, q = of_cell.n_visual_tokens[of_cell.height > 0].mean(), of_cell.n_text_tokens.mean()
        if not v > 0:
            continue
        common = {
            "cell": cell.name,
            "size": plain_name(cell.model.name),
            "seed": 0,
            "compressor": _law_of(cell),
            "family": _law_of(cell),
            "n_visual_tokens": round(v),
            "n_params": round(cell.model.n_params),
            "n_params_total": round(cell.model.n_params),
            "n_text_tokens": round(q) if q == q else 0,
            "llm_flops": round(2 * cell.model.n_params * (round(v) + (round(q) if q == q else 0))),
            "vision_flops": 0,
            "compressor_flops": 0,
            "held_out": False,
            "training": cell.model.name,
            "train_seconds": 0.0,
            "first_token_ms": round(of_cell.first_token_ms.median(), 3),
            "total_ms": round(of_cell.total_ms.median(), 3),
            "n_generated_tokens": round(of_cell.n_generated_tokens.mean(), 2),
        }
        for suite, of_suite in of_cell.groupby("suite"):
            kinds = [(ALL_KINDS, of_suite), *((k, rows) for k, rows in of_suite.groupby("kind") if k)]
            for kind, own in kinds if len(kinds) > 2 else kinds[:1]:
                rows.append(common | {"suite": suite, "kind": kind} | _score(own))
    return pd.DataFrame(rows, columns=[*COLUMNS, "family", "first_token_ms", "total_ms", "n_generated_tokens"])


def _law_of(cell: Cell) -> str:
    """The family, with its compressor, whose cells share a law; a model of unknown family is one by itself."""
    known = cell.model.law not in ("", "fixed")
    return cell.model.law if known else plain_name(cell.model.name)


def _score(judged: pd.DataFrame) -> dict[str, float]:
    found = score(judged.lost.to_numpy(), judged.cluster.to_numpy(), judged.weight.to_numpy())
    return vars(found) | {"unread": float(1 - judged.is_read.mean())}


def write_csv(table: pd.DataFrame, out: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with whole_file(out) as partial:
        table.to_csv(partial, index=False)
