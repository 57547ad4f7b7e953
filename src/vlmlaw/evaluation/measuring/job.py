"""Asking and judging as jobs of a workflow: a job asks one model at one budget, and another judges all of them.

Beside its result the first keeps the journal of replies, which outlives a job that is stopped or fails: it goes on
where it was. So that times are those of a model that is asked alone, jobs that share a server, or this machine's
processor, wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import Budget, Reply
from vlmlaw.evaluation.measuring.ask import Answers, Asking, ask_cell
from vlmlaw.evaluation.measuring.cells import Cell, Model, read_budget
from vlmlaw.evaluation.measuring.decide import Wishes
from vlmlaw.evaluation.measuring.load import Load, load_of, with_rates
from vlmlaw.evaluation.measuring.prices import Price
from vlmlaw.evaluation.measuring.questions_of import QuestionSet, read_question_set
from vlmlaw.evaluation.measuring.run import Measured, judge_all
from vlmlaw.evaluation.measuring.speed_files import read_speed, with_speed
from vlmlaw.evaluation.questions import image_reader
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.settings import number

REPLIES, MODEL, JOURNAL = "replies.jsonl", "model.json", "journal.jsonl"
LOAD = "load.json"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a server is asked; it changes times at most."""

    concurrency: int = number(least=1, default=1)  # questions at a time
    timeout: float = number(above=0, default=300.0)  # seconds for one reply
    patience: float = number(above=0, default=600.0)  # seconds that a server may be away
    load: tuple[int, ...] = number(least=1, default=())  # so many at a time, under which a server's cells are timed


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """What the replies of a model at a budget depend on, beside questions and images."""

    name: str
    kind: str  # endpoint, checkpoint or cell
    place: str  # the name on the server; folder or id
    family: str = ""
    params: str = ""
    dtype: str = "auto"
    compressor: str = ""  # of a checkpoint's image features; "": V by its processor's knob
    budget: str
    metric: str = ""  # "": by the answers
    instruction: str | None = None
    max_new_tokens: int | None = number(least=1, default=None)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What is wanted of a cell."""

    cost: str = "ms"  # ms, first-ms, tokens, flops, money
    prices: Mapping[str, str] = field(default_factory=dict)  # a model's: IN/OUT for a million tokens, or X/h
    speed: Mapping[str, str] = field(default_factory=dict)  # a cell's file of times, of vllm bench, GuideLLM or AIPerf
    worse_by: float = number(least=0, most=1, default=0.02)  # error that may be lost
    level: float = number(least=0.5, most=0.999, default=0.95)  # confidence of every statement
    limit_ms: float | None = number(above=0, default=None)  # what 95 of 100 replies must not take longer than

    @property
    def wishes(self) -> Wishes:
        prices = {name: Price.parse(text, where=f"decision.prices.{name}") for name, text in self.prices.items()}
        return Wishes(cost=self.cost, worse_by=self.worse_by, level=self.level, limit_ms=self.limit_ms, prices=prices)


def read_asked(questions: Path, images: Path, *, name: str, metric: str) -> QuestionSet:
    """The questions of a benchmark, under its name."""
    found = read_question_set(questions, images=images, metric=metric or None, question=None)
    return QuestionSet(name, found.questions, found.images, found.metric_name, found.source)


def ask_job(settings: AskSettings, asked: QuestionSet, *, serving: Serving, endpoint: str, out: Path) -> None:
    """Ask a model all questions at a budget; writes the file of replies `out`, and beside it what the model is.

    Raises UserError for what cannot be asked; what was answered before is in the journal beside it.
    """
    model, backend = _opened(settings, serving, endpoint)
    budget = read_budget(settings.budget)
    backend.check([budget])
    asking, cell = _asking(settings, asked), Cell(model, budget)
    try:
        with _alone(out.parents[2], endpoint or _processor()):
            found = ask_cell(
                backend,
                asking,
                budget=budget,
                journal=out.with_name(JOURNAL),
                concurrency=serving.concurrency if settings.kind == "endpoint" else 1,
                label=cell.name,
            )
    finally:
        backend.close()
    with whole_file(out.with_name(MODEL)) as partial:
        partial.write_text(json.dumps(asdict(model), indent=1), encoding="utf-8")
    with whole_file(out) as partial:
        partial.write_text("".join(_lines(found)), encoding="utf-8")


def load_job(settings: AskSettings, asked: QuestionSet, *, serving: Serving, endpoint: str, out: Path) -> None:
    """Time a server's cell under each load of `serving`, after its replies are there; writes the file `out`.

    A cell of which a question was refused has no times. Raises UserError as `load_of` does.
    """
    model, backend = _opened(settings, serving, endpoint)
    budget = read_budget(settings.budget)
    cell, found = Cell(model, budget), list[Load]()
    replies = out.parents[3] / "asked" / out.parents[1].name / out.parent.name / REPLIES
    if not _answers_in(replies, asked).refused:
        with _alone(out.parents[3] / "asked", endpoint):
            asking, kept = _asking(settings, asked), out.with_name("timed.json")
            found = load_of(backend, asking, budget=budget, levels=serving.load, file=kept, cell=cell.name)
    backend.close()
    with whole_file(out) as partial:
        partial.write_text(json.dumps([asdict(load) for load in found], indent=1), encoding="utf-8")


def _asking(settings: AskSettings, asked: QuestionSet) -> Asking:
    return Asking(
        questions=asked.questions,
        read_image=image_reader(asked.images, list(asked.questions), source=asked.source),
        instruction=asked.metric.instruction if settings.instruction is None else settings.instruction,
        max_new_tokens=settings.max_new_tokens or asked.metric.max_new_tokens,
    )


def _lines(found: Answers) -> Iterator[str]:
    for name, reply in found.replies.items():
        yield json.dumps({"id": name, **asdict(reply)}, ensure_ascii=False) + "\n"
    for name, why in found.refused.items():
        yield json.dumps({"id": name, "refused": why}, ensure_ascii=False) + "\n"


def _opened(settings: AskSettings, serving: Serving, endpoint: str) -> tuple[Model, Any]:
    """The model by the name that it has in the file, and its back end."""
    if settings.kind == "endpoint":
        from vlmlaw.evaluation.backends.endpoint import Endpoint, Patience

        told = Model.named(settings.place, family=settings.family, params=settings.params)
        patience = Patience(timeout_seconds=serving.timeout, outage_seconds=serving.patience)
        model = Model(name=settings.name, family=told.family, n_params=told.n_params)
        return model, Endpoint(endpoint, settings.place, told.rule, patience=patience)
    backend: Any
    if settings.kind == "checkpoint":
        from vlmlaw.evaluation.backends.checkpoint import Checkpoint

        backend = Checkpoint(settings.place, dtype=settings.dtype)
        if settings.compressor:
            from vlmlaw.evaluation.backends.compressed import Compressed

            compressed = Compressed(backend, settings.compressor)
            backend.close()  # its weights are the compressed model's now
            law = f"{compressed.family}+{settings.compressor}"
            return Model(name=settings.name, family=law, n_params=compressed.n_params), compressed
    else:
        from vlmlaw.evaluation.backends.trained_cell import TrainedCell

        backend = TrainedCell(Path(settings.place))
    return Model(name=settings.name, family=backend.family, n_params=backend.n_params), backend


def _processor() -> str:
    """What a model that is loaded here shares with others: "" on a GPU, which a job has for itself."""
    from vlmlaw.vlm.device import best_device

    return "cpu" if str(best_device()) == "cpu" else ""


@contextmanager
def _alone(folder: Path, shared: str) -> Iterator[None]:
    """Hold the lock of what is shared; the system frees it however a job ends."""
    if not shared:
        yield
        return
    path = folder / ".turns" / hashlib.blake2b(shared.encode(), digest_size=8).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def judge_job(
    asked: QuestionSet, folders: Sequence[Path], *, speed: Mapping[str, str], loads: Sequence[Path] = ()
) -> Measured:
    """Judge the replies of all cells of a benchmark; `folders` are those of its asking jobs.

    speed: files of times by cell, which take the place of its own. loads: files of `load_job`. Raises UserError where a
    question has neither a reply nor a reason in one of the folders, and for a file of times that cannot be read.
    """
    times = {cell: read_speed(Path(path)) for cell, path in speed.items()}
    cells, answers = list[Cell](), dict[str, Answers]()
    for folder in folders:
        model = Model(**json.loads((folder / MODEL).read_text(encoding="utf-8")))
        cell = Cell(model, _budget_of(folder))
        cells.append(cell)
        answers[cell.name] = _answers_in(folder / REPLIES, asked)
    images = image_reader(asked.images, list(asked.questions), source=asked.source)
    measured = judge_all(asked, cells, answers, read_image=images)
    timed = [Load(**load) for path in loads for load in json.loads(path.read_text(encoding="utf-8"))]
    timed = [load for load in timed if load.cell in set(measured.table.cell)]
    return replace(measured, loads=timed, table=with_speed(with_rates(measured.table, timed), times))


def _budget_of(folder: Path) -> Budget:
    return read_budget(folder.name.rpartition("_v")[2])


def _answers_in(path: Path, asked: QuestionSet) -> Answers:
    rows: dict[str, Mapping[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row.pop("id")] = row
    if lacking := [q.id for q in asked.questions if q.id not in rows]:
        raise UserError(f"{path} has nothing of question {lacking[0]!r}; run its job again.")
    replies = {
        name: Reply(**{**row, "sizes": tuple(map(tuple, row["sizes"]))})
        for name, row in rows.items()
        if "refused" not in row
    }
    return Answers(replies, {name: row["refused"] for name, row in rows.items() if "refused" in row})


def collect_tables(tables: Sequence[Path]) -> pd.DataFrame:
    """measurements.csv of all benchmarks as one. Raises UserError where no model has a known size."""
    found = pd.concat([pd.read_csv(table) for table in tables], ignore_index=True)
    if found.empty:
        raise UserError(
            "no cell can be a row of measurements.csv: it needs a known size and counted tokens; say `params` of the "
            "models, as params: 7B."
        )
    return found
