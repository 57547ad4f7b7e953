"""Replies to judged rows: what each question lost in each cell, how many tokens were counted, and what it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from vlmlaw.evaluation.backends.interface import Reply, budget_text
from vlmlaw.evaluation.measuring.cells import Cell
from vlmlaw.evaluation.metrics import Metric, Question
from vlmlaw.evaluation.questions import clusters_of

COUNTED, BY_RULE = "counted", "by rule"
MARKERS = 4  # tokens around an image, such as its begin and end, that chat templates add: at most so many


def judged_rows(
    cell: Cell,
    questions: Sequence[Question],
    replies: Mapping[str, Reply],
    blind: Mapping[str, Reply],
    *,
    metric: Metric,
    suite: str,
    image_size: Callable[[str], tuple[int, int]],
) -> pd.DataFrame:
    """One row for each question of a cell, in the order of the questions.

    blind: the replies of the same model without images, whose prompts V is counted against.
    `n_visual_tokens` is what the image added to the prompt, its markers included; where no count is to be had it is
    the family's rule's, and `v_source` says which.
    """
    rows = []
    for question, cluster in zip(questions, clusters_of(questions), strict=True):
        reply = replies[question.id]
        verdict = metric.judge(reply.text, question)
        size = image_size(question.image) if question.image is not None else (0, 0)
        v, source = _visual_tokens(cell, question, reply, blind.get(question.id))
        text_tokens = blind[question.id].n_prompt_tokens if question.id in blind else None
        if text_tokens is None and reply.n_prompt_tokens is not None and reply.n_visual_tokens is not None:
            text_tokens = reply.n_prompt_tokens - reply.n_visual_tokens
        rows.append(
            {
                "cell": cell.name,
                "model": cell.model.name,
                "family": cell.model.family,
                "budget": budget_text(cell.budget),
                "question": question.id,
                "suite": suite,
                "kind": question.kind,
                "cluster": cluster,
                "height": size[0],
                "width": size[1],
                "lost": verdict.lost,
                "weight": verdict.weight,
                "is_read": verdict.is_read,
                "n_visual_tokens": v,
                "v_source": source,
                "v_by_rule": _by_rule(cell, reply),
                "n_text_tokens": text_tokens,
                "n_generated_tokens": reply.n_generated_tokens,
                "n_cached_tokens": reply.n_cached_tokens,
                "first_token_ms": None if reply.first_token_seconds is None else 1000 * reply.first_token_seconds,
                "total_ms": 1000 * reply.seconds,
                "cut": reply.finish == "length",
                "said": reply.text,
            }
        )
    numbers = ("n_visual_tokens", "v_by_rule", "n_text_tokens", "n_generated_tokens", "n_cached_tokens")
    frame = pd.DataFrame(rows)
    return frame.assign(**{name: frame[name].astype(float) for name in (*numbers, "first_token_ms")})


def _visual_tokens(cell: Cell, question: Question, reply: Reply, blind: Reply | None) -> tuple[float, str]:
    if cell.budget == 0 or question.image is None:
        return 0.0, COUNTED
    if reply.n_visual_tokens is not None:
        return float(reply.n_visual_tokens), COUNTED
    if reply.n_prompt_tokens is not None and blind is not None and blind.n_prompt_tokens is not None:
        return float(reply.n_prompt_tokens - blind.n_prompt_tokens), COUNTED
    return _by_rule(cell, reply), BY_RULE


def _by_rule(cell: Cell, reply: Reply) -> float:
    """Tokens of the images as they were sent, by the family's rule; nan where it does not say."""
    each = [cell.model.rule.n_tokens(height, width) for height, width in reply.sizes]
    return float(np.sum([np.nan if n is None else n for n in each])) if each else np.nan


def silent_caps(judged: pd.DataFrame) -> dict[str, str]:
    """Cells whose images the server made smaller than the family's rule says, with a sentence of how much."""
    found = {}
    for cell, rows in judged.groupby("cell"):
        seen = rows[(rows.v_source == COUNTED) & rows.v_by_rule.notna() & (rows.n_visual_tokens > 0)]
        if seen.empty:
            continue
        short = seen.v_by_rule - seen.n_visual_tokens > np.maximum(MARKERS, 0.02 * seen.v_by_rule)
        if short.any():
            worst = seen[short].iloc[int(np.argmax((seen.v_by_rule - seen.n_visual_tokens)[short]))]
            found[str(cell)] = (
                f"the server read fewer tokens than were sent in {short.sum()} of {len(seen)} images, for example "
                f"{worst.n_visual_tokens:.0f} where {worst.width:.0f} x {worst.height:.0f} px make "
                f"{worst.v_by_rule:.0f}: it limits an image's pixels by itself"
            )
    return found
