"""Measured costs of an answer, above all time: which columns have them, and how far 2N(Q + V) is from the clock."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.costs import BILLION, ColumnCost
from vlmlaw.report import phrasing

if TYPE_CHECKING:
    from vlmlaw.report.study import Study, Suite

# A column is a cost of an answer where a word of its name says so, and none says that it is a cost of training.
TIME_WORDS = {"ms", "milliseconds", "seconds", "latency", "ttft"}
COST_WORDS = TIME_WORDS | {"flops", "joules", "wh", "usd", "eur", "cost", "price"}
NOT_OF_AN_ANSWER = {"train", "training", "wall", "cpu", "budget"}
WHOLE = "first_token_ms"  # the workflow's own column; the parts beside it are no time of an answer
PARTS = {"tower_ms": "the tower", "question_ms": "the pass over the question"}
PARTS |= {"compressor_ms": "compressor and projector", "llm_ms": "the LLM"}
TIMED_TOKENS = "timed_text_tokens"


def cost_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a table that are costs of an answer, by their names.

    >>> cost_columns(pd.DataFrame(columns=["N", "ttft_ms", "train_seconds", "price_usd", "first_token_ms", "tower_ms"]))
    ['ttft_ms', 'price_usd', 'first_token_ms']
    """
    words = {str(name): _words(str(name)) for name in frame.columns}
    found = [name for name, has in words.items() if has & COST_WORDS and not has & NOT_OF_AN_ANSWER and "+" not in name]
    return [name for name in found if not (name in PARTS and WHOLE in found)]


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def clock_of(suite: Suite, study: Study) -> ColumnCost | None:
    """The measured time of an answer in the suite's cells; None where the table has none, or not of two cells."""
    named = [name for name in cost_columns(suite.rows) if _words(name) & TIME_WORDS]
    for name in sorted(named, key=lambda name: name != WHOLE):
        try:
            clock = ColumnCost.from_table(replace(study.measurements, frame=suite.rows), name)
        except UserError:  # a column that is no number above 0
            continue
        if len(clock.by_cell) > 1:
            return clock
    return None


def name_of(clock: ColumnCost) -> str:
    """What the time is, for an axis or a caption."""
    return "milliseconds to the first token" if clock.name == WHOLE else clock.name


def timed_question_tokens(suite: Suite, study: Study) -> float:
    """Q of the prompt that was timed, where the table says so; else that of the study."""
    if TIMED_TOKENS not in suite.rows:
        return study.question_tokens
    found = float(pd.to_numeric(suite.rows[TIMED_TOKENS], errors="coerce").median())
    return found if found >= 0 else study.question_tokens


def against_flops(suite: Suite, study: Study, clock: ColumnCost) -> pd.DataFrame:
    """N, V, the law's 2N(Q + V) at the timed Q, and the measured time of each timed cell, the cheapest first."""
    q = timed_question_tokens(suite, study)
    cells = pd.DataFrame([(n, v, 2 * BILLION * n * (q + v), time) for (n, v), time in clock.by_cell.items()])
    return cells.set_axis(["N", "V", "flops", "time"], axis=1).sort_values("flops", ignore_index=True)


def sentence(suite: Suite, study: Study, clock: ColumnCost) -> str:
    """How far 2N(Q + V) is from the clock, and what else takes the time, in plain words."""
    cells = against_flops(suite, study, clock)
    first, last = cells.iloc[0], cells.iloc[-1]
    per_flop = cells["time"] / cells["flops"]
    text = (
        f"From the cheapest to the dearest cell 2N(Q + V) grows by ×{last['flops'] / first['flops']:.3g} and the "
        f"measured time by ×{last['time'] / first['time']:.3g}; between cells the time of one FLOP differs by up to "
        f"×{per_flop.max() / per_flop.min():.3g}."
    )
    shares = _shares(suite, clock)
    if shares:
        text += f" Of the time of a cell at the median, {phrasing.listed(shares)}."
    return text


def _shares(suite: Suite, clock: ColumnCost) -> list[str]:
    if clock.name != WHOLE or not set(PARTS) <= set(suite.rows):
        return []
    whole = suite.rows[WHOLE].astype(float)
    shares = {name: float(np.median(suite.rows[part].astype(float) / whole)) for part, name in PARTS.items()}
    return [f"{name} takes {phrasing.percent(share, 0)}" for name, share in shares.items() if share > 0]
