"""A cell under load: requests a second and times of a reply while so many questions are asked at a time.

Replies are asked for once and kept; a rate cannot be had from them, since a run may stop and go on. So each level puts
questions anew, in turn, in a closed loop: as one reply ends the next question is sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import Backend, Budget, Reply, Unanswered, budget_text
from vlmlaw.evaluation.backends.journal import key_of
from vlmlaw.evaluation.measuring.ask import Asking
from vlmlaw.evaluation.metrics import Question
from vlmlaw.evaluation.questions import said_by_user
from vlmlaw.runtime.progress import Progress
from vlmlaw.runtime.whole_files import whole_file

LEAST_REQUESTS, ROUNDS = 32, 8  # a level has as many requests as its slots take in so many rounds, or at least these


@dataclass(frozen=True, kw_only=True)
class Load:
    """A cell at a level: questions at a time, rates, times of a reply in ms; nan for what the server does not say."""

    cell: str
    concurrency: int
    n_requests: int
    requests_per_second: float
    tokens_per_second: float  # generated
    first_token_ms: float
    total_ms: float
    total_ms_p95: float


def load_of(
    backend: Backend, asking: Asking, *, budget: Budget, levels: Sequence[int], file: Path, cell: str
) -> list[Load]:
    """Time a cell at each level; what `file` has of the same questions and weights is not asked again.

    Raises UserError where a question that was answered before is refused under load.
    """
    keys = {n: _key(backend, asking, budget, n) for n in levels}
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for n in levels:
        if keys[n] not in kept:
            kept[keys[n]] = asdict(_timed(backend, asking, budget=budget, n=n, cell=cell))
            with whole_file(file) as partial:
                partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return [Load(**kept[keys[n]] | {"cell": cell}) for n in levels]


def with_rates(table: pd.DataFrame, loads: Sequence[Load]) -> pd.DataFrame:
    """The table of cells with the most requests a second that each reached under load, where any was put under it."""
    rate = pd.Series([load.requests_per_second for load in loads], index=[load.cell for load in loads], dtype=float)
    return table.assign(requests_per_second=table.cell.map(rate.groupby(level=0).max())) if loads else table


def _key(backend: Backend, asking: Asking, budget: Budget, n: int) -> str:
    questions = [asking.key(question, model=backend.identity, budget=budget) for question in asking.questions]
    return key_of(str(n), *questions)


def _timed(backend: Backend, asking: Asking, *, budget: Budget, n: int, cell: str) -> Load:
    n_requests = max(LEAST_REQUESTS, ROUNDS * n)
    images = {q.id: [asking.read_image(name) for name in q.images] if budget != 0 else [] for q in asking.questions}
    with Progress(n_requests, f"{cell}, {n} at a time") as shown, ThreadPoolExecutor(n) as pool:

        def one(question: Question) -> Reply:
            said = said_by_user(question, asking.instruction)
            try:
                reply = backend.ask(said, images[question.id], budget=budget, max_new_tokens=asking.max_new_tokens)
            except Unanswered as error:
                raise UserError(
                    f"{backend.name} at V = {budget_text(budget)} refuses question {question.id!r} with {n} at a time, "
                    f"which it answered before: {error}. Give fewer by --concurrency."
                ) from error
            shown.step()
            return reply

        start = time.perf_counter()
        replies = list(pool.map(one, islice(cycle(asking.questions), n_requests)))
        seconds = time.perf_counter() - start
    generated = [np.nan if reply.n_generated_tokens is None else reply.n_generated_tokens for reply in replies]
    first = [1000 * (reply.first_token_seconds or np.nan) for reply in replies]
    total = [1000 * reply.seconds for reply in replies]
    return Load(
        cell=cell,
        concurrency=n,
        n_requests=n_requests,
        requests_per_second=n_requests / seconds,
        tokens_per_second=float(np.sum(generated)) / seconds,
        first_token_ms=float(np.median(first)),
        total_ms=float(np.median(total)),
        total_ms_p95=float(np.quantile(total, 0.95)),
    )
