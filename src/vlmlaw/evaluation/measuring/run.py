"""A whole measurement: ask every cell, judge, and write what it gives into one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import Backend
from vlmlaw.evaluation.measuring.ask import Answers, Asking, ask_cell
from vlmlaw.evaluation.measuring.cells import Cell
from vlmlaw.evaluation.measuring.explained import Compared, compared
from vlmlaw.evaluation.measuring.judge import judged_rows, silent_caps
from vlmlaw.evaluation.measuring.load import Load, load_of, with_rates
from vlmlaw.evaluation.measuring.questions_of import FEW, QuestionSet
from vlmlaw.evaluation.measuring.summary import cell_table
from vlmlaw.evaluation.questions import image_reader

UNREAD = 0.2  # a share of replies without a verdict from which the metric may be the wrong one
CACHED = 0.05  # a share of cached prompt tokens from which times say less


@dataclass(frozen=True)
class Measured:
    """What was measured: judged questions of every whole cell, the table of cells, and what to know about them."""

    judged: pd.DataFrame
    table: pd.DataFrame
    cells: Sequence[Cell]
    warnings: Sequence[str]
    incomplete: Mapping[str, str]  # cells without a row, and why
    loads: Sequence[Load] = ()  # cells under several questions at a time
    explained: Sequence[Compared] = ()  # questions that tell models and tokens apart


def ask_all(
    asked: QuestionSet,
    cells: Sequence[Cell],
    backends: Mapping[str, Backend],
    *,
    out: Path,
    instruction: str,
    max_new_tokens: int,
    concurrency: int = 1,
    levels: Sequence[int] = (),
) -> Measured:
    """Ask every cell every question, resuming from the journals in `out`, and judge the replies.

    backends: by the model's name. All of them are checked before one is asked; then one model is asked after the
    other, and freed. levels: so many questions at a time are then put to each cell, to time a server under load.
    """
    images = image_reader(asked.images, list(asked.questions), source=asked.source)
    for name, backend in backends.items():
        backend.check([cell.budget for cell in cells if cell.model.name == name])
    asking = Asking(
        questions=asked.questions, read_image=images, instruction=instruction, max_new_tokens=max_new_tokens
    )
    for name in dict.fromkeys(name for question in asked.questions for name in question.images):
        asking.image_digest(name)  # a file that is no image ends the run before anything is asked
    answers, loads = dict[str, Answers](), list[Load]()
    for name, own in groupby(cells, key=lambda cell: cell.model.name):
        for cell in own:
            journal, backend = journal_of(out, cell), backends[name]
            answers[cell.name] = ask_cell(
                backend, asking, budget=cell.budget, journal=journal, concurrency=concurrency, label=cell.name
            )
            if levels and not answers[cell.name].refused:
                file = journal.with_name("load.json")
                loads += load_of(backend, asking, budget=cell.budget, levels=levels, file=file, cell=cell.name)
        backends[name].close()
    measured = judge_all(asked, cells, answers, read_image=images)
    loads = [load for load in loads if load.cell in set(measured.table.cell)]
    return replace(measured, loads=loads, table=with_rates(measured.table, loads))


def journal_of(out: Path, cell: Cell) -> Path:
    """The file of a cell's replies."""
    return out / "cells" / cell.name / "replies.jsonl"


def judge_all(
    asked: QuestionSet,
    cells: Sequence[Cell],
    answers: Mapping[str, Answers],
    *,
    read_image: Callable[[str], np.ndarray],
) -> Measured:
    """Judge the replies of all cells; one that lacks a reply is left out and named, since others could not be compared.

    Raises UserError if no cell is whole.
    """
    blind = {cell.model.name: answers[cell.name].replies for cell in cells if cell.budget == 0}
    incomplete, frames, image_size = {}, [], image_sizes(read_image)
    for cell in cells:
        own = answers[cell.name]
        n_missing = len(asked.questions) - len(own.replies)
        if n_missing:
            which, why = next(iter(own.refused.items()), ("", "it was not asked"))
            incomplete[cell.name] = f"{n_missing} of {len(asked.questions)} questions have no reply; {which}: {why}"
            continue
        frames.append(
            judged_rows(
                cell,
                asked.questions,
                own.replies,
                blind.get(cell.model.own_name, {}),
                metric=asked.metric,
                suite=asked.name,
                image_size=image_size,
            )
        )
    if not frames:
        name, why = next(iter(incomplete.items()))
        raise UserError(f"no cell answered every question, so none can be compared; {name}: {why}.")
    judged = pd.concat(frames, ignore_index=True)
    doubles, caps = _doubles(judged, cells), silent_caps(judged)
    judged = judged[~judged.cell.isin([*doubles])].reset_index(drop=True)
    table = cell_table(judged, cells)
    warnings = [*_warnings(asked, judged, table), *(f"{cell}: {why}" for cell, why in caps.items())]
    warnings += [
        f"every image has the same tokens in {cell} as in {same}, shown once" for cell, same in doubles.items()
    ]
    replies = {name: own.replies for name, own in answers.items()}
    explained = compared(judged, cells, asked.questions, replies, read_image=read_image)
    return Measured(judged, table, cells, warnings, incomplete, explained=explained)


def image_sizes(read: Callable[[str], np.ndarray]) -> Callable[[str], tuple[int, int]]:
    """Height and width of images by name, each read once."""
    known: dict[str, tuple[int, int]] = {}

    def size(name: str) -> tuple[int, int]:
        if name not in known:
            known[name] = read(name).shape[:2]
        return known[name]

    return size


def _warnings(asked: QuestionSet, judged: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What a reader has to know before the numbers."""
    found = []
    n_images = judged.cluster.nunique()
    if len(asked.questions) < FEW or n_images < FEW:
        found.append(
            f"{len(asked.questions)} questions on {n_images} images are few: below {FEW}, intervals are wide and "
            "rest on assumptions that so few cannot check"
        )
    uncounted = table[(table.v_source != "counted") & (table.budget != "0")]
    if len(uncounted):
        found.append(
            f"V of {', '.join(uncounted.cell)} is the family's rule's, not counted: the server does not say how many "
            "tokens a prompt has (`usage`)"
        )
    cut = table[table.cut > 0.05]
    if len(cut):
        found.append(
            f"replies of {', '.join(cut.cell)} were cut at the longest length ({cut.cut.max():.0%} at most); "
            "give --max-new-tokens"
        )
    unread = table[table.unread > UNREAD]
    if len(unread):
        found.append(
            f"up to {unread.unread.max():.0%} of the replies of {', '.join(unread.cell)} are not of the form that is "
            f"judged ({asked.metric_name}), and count as wrong; look at `said` in questions.csv, and change --metric "
            "or --instruction"
        )
    cached = table[table.cached_share > CACHED]
    if len(cached):
        found.append(
            f"the server had up to {cached.cached_share.max():.0%} of the prompts' tokens in its cache, so that its "
            "first token came sooner than for a new image; switch prefix caching off to time new ones"
        )
    return found


def _doubles(judged: pd.DataFrame, cells: Sequence[Cell]) -> dict[str, str]:
    """Cells at which every image has as many tokens as in another cell of the same model: one setting, asked twice.

    So has a compressor that leaves all tokens, beside the model as it is.
    """
    found = {}
    wide = judged.pivot(index="question", columns="cell", values="n_visual_tokens")
    models = {cell.model.name: cell.model for cell in cells}
    for name, rows in judged[judged.budget != "0"].groupby("model", sort=False):
        model = models[str(name)]
        whole = Cell(replace(model, name=model.own_name, compressor=""), None).name
        seen = [whole] if model.compressor and whole in wide else []
        for cell in dict.fromkeys(rows.cell):
            same = next((one for one in seen if wide[one].notna().all() and wide[one].equals(wide[cell])), "")
            if same:
                found[str(cell)] = same
            else:
                seen.append(str(cell))
    return found
