"""Questions that explain the law: right only in larger models, only with more tokens, in none.

A few cells at the corners of the grid are compared question by question: on the test split, which they answer again,
and on benchmarks, whose evaluations keep what was replied. Questions that tell size and tokens apart are kept with
their pictures, and with what each number of visual tokens stands for in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from vlmlaw.data.framing import square
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.evaluation.benchmark import pad_id_of, patches_reader
from vlmlaw.evaluation.metrics import metric_called
from vlmlaw.evaluation.picture_views import positions_of, what_is_seen
from vlmlaw.evaluation.questions import image_reader, read_questions, said_by_user
from vlmlaw.evaluation.reasons import REASONS, reasons_of, varied
from vlmlaw.evaluation.settings import ON_A_CPU
from vlmlaw.evaluation.test_split import judge
from vlmlaw.evaluation.thumbnail import picture_uri
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.tokens.subset import subset
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.vlm.cell_name import cell_named_in
from vlmlaw.vlm.generate import Prompter, prompt_tensors
from vlmlaw.vlm.images import open_images
from vlmlaw.vlm.load import load_cell

if TYPE_CHECKING:
    from vlmlaw.evaluation.settings import ExplainedBenchmark, ExplainedCell, ExplainPlan


@dataclass(frozen=True, eq=False)
class Asked:
    """The questions of the test split or of a benchmark, and how the compared cells answered them.

    right_QC: whether each cell was right. `told` is what the page says of a question, with the name of its picture;
    `pixels` its picture as a square; `seen` what the visual tokens stand for at each V, of the questions of these keys.
    """

    keys: Sequence[Any]
    suites: Sequence[str]
    kinds: Sequence[str]
    right_QC: np.ndarray
    told: Callable[[Any], dict[str, Any]]
    pixels: Callable[[Any], np.ndarray]
    seen: Callable[[Sequence[Any]], Mapping[Any, Mapping[int, Any]]]


def explain(cells: Path, out: Path, *, plan: ExplainPlan, test: TestFiles | None = None) -> None:
    """Compare the cells of the plan, in the folder `cells`, and write the questions that explain to `out` (JSON).

    Of the test split `plan.records` records are asked again, spread over it; of benchmarks what was replied counts.
    """
    sources = [asked_of_test(cells, test, plan)] if test else []
    sources += [asked_of_benchmark(cells, benchmark, plan) for benchmark in plan.benchmarks]
    items = [(source, place) for source in sources for place in range(len(source.keys))]
    right_QC = np.concatenate([source.right_QC for source in sources])
    suites = np.array([source.suites[place] for source, place in items])
    v = [cell.measured.n_visual_tokens for cell in plan.cells]
    reasons = reasons_of(right_QC, is_large=[cell.is_largest for cell in plan.cells], v=v)
    chosen = {
        (suite, reason): _chosen([items[i] for i in np.flatnonzero((suites == suite) & (reasons == reason))], plan.n)
        for suite in sorted(set(suites))
        for reason in REASONS
    }
    shown = [item for own in chosen.values() for item in own]
    seen = [source.seen([source.keys[place] for one, place in shown if one is source]) for source in sources]
    made: dict[str, Any] = {"cells": [asdict(cell) for cell in plan.cells], "pictures": {}, "suites": {}}
    for suite in sorted(set(suites)):
        of_suite = suites == suite
        made["suites"][suite] = {
            "n_questions": int(of_suite.sum()),
            "errors": (1 - right_QC[of_suite].mean(axis=0)).tolist(),
            "shares": {name: float((reasons[of_suite] == name).mean()) for name in (*REASONS, "all")},
            "questions": {
                reason: [
                    _question(item, seen[sources.index(item[0])], made["pictures"]) for item in chosen[suite, reason]
                ]
                for reason in REASONS
            },
        }
    with whole_file(out) as partial:
        partial.write_text(json.dumps(made), encoding="utf-8")


def _chosen(items: Sequence[tuple[Asked, int]], n: int) -> list[tuple[Asked, int]]:
    return varied(items, n, kind=lambda item: item[0].kinds[item[1]], picture=_picture_of)


def _picture_of(item: tuple[Asked, int]) -> str:
    return str(item[0].told(item[0].keys[item[1]])["picture"])


def _question(item: tuple[Asked, int], seen: Mapping[Any, Any], pictures: dict[str, str]) -> dict[str, Any]:
    source, key = item[0], item[0].keys[item[1]]
    told = source.told(key)
    if told["picture"] not in pictures:
        pictures[told["picture"]] = picture_uri(source.pixels(key))
    views = {str(v): places for v, places in seen[key].items()}
    return told | {"kind": source.kinds[item[1]], "right": source.right_QC[item[1]].tolist(), "seen": views}


# --------------------------------------------------------------------------- the test split


@dataclass(frozen=True)
class TestFiles:
    """The test split: pictures and questions, the questions as tokens, and what a cell sees of the pictures."""

    __test__ = False  # no class of tests

    dataset: Path
    tokens: Path
    images: Path


def asked_of_test(cells: Path, files: TestFiles, plan: ExplainPlan) -> Asked:
    """The test split's questions, answered again by every cell of the plan."""
    table, data = TokenTable.load(files.tokens), Dataset(files.dataset)
    records = np.flatnonzero([record.image is not None for record in data.records])
    places = np.linspace(0, len(records) - 1, min(plan.records, len(records))).round().astype(int)
    records = records[np.unique(places)]
    right = pd.concat([_right(cells, cell, table, files.images, records) for cell in plan.cells], axis=1)
    keys = [(int(record), int(question)) for record, question in right.index]

    def told(key: tuple[int, int]) -> dict[str, Any]:
        record = data.records[key[0]]
        return {"picture": f"test {key[0]}", "question": record.questions[key[1]], "answer": record.answers[key[1]]}

    return Asked(
        keys=keys,
        suites=[data.records[record].suite for record, _ in keys],
        kinds=[(data.records[record].kinds or {question: ""})[question] for record, question in keys],
        right_QC=right.to_numpy(dtype=bool),
        told=told,
        pixels=lambda key: data.image(data.image_row(data.records[key[0]])),
        seen=partial(_seen_of_test, cells=cells, plan=plan, table=table, images=files.images),
    )


def _right(folder: Path, cell: ExplainedCell, table: TokenTable, images: Path, records: np.ndarray) -> pd.Series:
    """Whether the cell answers each question of these records right, by (record, question)."""
    vlm, words = load_cell(folder / cell.training / "model", cell=cell.measured)
    images_of = open_images(images, layers=vlm.config.feature_layers, image_px=vlm.config.vision_config.image_size)
    judged = judge(vlm, subset(table, records), images_of, batch_size=ON_A_CPU, pad_id=words.pad_token_id)
    index = pd.MultiIndex.from_arrays([records[judged.record.to_numpy(dtype=int)], judged.question])
    return pd.Series(judged.right.to_numpy(dtype=bool), index=index)


def _seen_of_test(
    keys: Sequence[tuple[int, int]], *, cells: Path, plan: ExplainPlan, table: TokenTable, images: Path
) -> dict[tuple[int, int], dict[int, dict[str, Any]]]:
    """What the visual tokens stand for in each question's picture, by V, in the cells of the largest LLM."""
    found: dict[tuple[int, int], dict[int, dict[str, Any]]] = {key: {} for key in keys}
    for cell in (cell for cell in plan.cells if cell.is_largest and keys):
        vlm, words = load_cell(cells / cell.training / "model", cell=cell.measured)
        images_of = open_images(images, layers=vlm.config.feature_layers, image_px=vlm.config.vision_config.image_size)
        for record, question in keys:
            places: list[Any] = []
            if vlm.compressor.moves_with_content:
                with positions_of(vlm.compressor) as places:
                    judge(vlm, subset(table, np.array([record])), images_of, batch_size=1, pad_id=words.pad_token_id)
            views = what_is_seen(vlm.compressor, places[0] if places else None)
            found[record, question][cell.measured.n_visual_tokens] = views[min(question, len(views) - 1)]
    return found


# --------------------------------------------------------------------------- a benchmark


def asked_of_benchmark(cells: Path, benchmark: ExplainedBenchmark, plan: ExplainPlan) -> Asked:
    """The benchmark's questions about one picture, as the cells of the plan replied to them in their evaluations."""
    questions = Path(benchmark.questions)
    asked = {q.id: q for q in read_questions(questions, metric=metric_called(benchmark.metric)) if len(q.images) == 1}
    read = image_reader(Path(benchmark.images), list(asked.values()), source=questions)
    lost = [
        _lost(cells / cell_named_in(asdict(cell.measured)) / "benchmarks" / f"{benchmark.name}.jsonl")
        for cell in plan.cells
    ]
    keys = [key for key in asked if all(key in of_cell for of_cell in lost)]

    def told(key: str) -> dict[str, Any]:
        question = asked[key]
        text = "; ".join([question.text, *question.options])
        return {"picture": f"{benchmark.name} {question.image}", "question": text, "answer": question.answers[0]}

    def said(key: str) -> str:
        return said_by_user(asked[key], benchmark.instruction)

    def pixels(key: str) -> np.ndarray:
        image = Image.fromarray(read(str(asked[key].image)))
        return np.asarray(square(image, plan.image_px, fit=plan.fit, pad_color=plan.pad_color))

    return Asked(
        keys=keys,
        suites=[benchmark.suite] * len(keys),
        kinds=[benchmark.name] * len(keys),
        right_QC=np.array([[of_cell[key] == 0 for of_cell in lost] for key in keys], dtype=bool).reshape(len(keys), -1),
        told=told,
        pixels=pixels,
        seen=partial(_seen_in_pictures, cells=cells, plan=plan, pixels=pixels, said=said),
    )


def _lost(path: Path) -> dict[str, float]:
    """What a cell's reply to each question lost, 0 for a right one. Raises UserError for a file that says no such."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {str(row["id"]): float(row["lost"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no replies ({error!r}); evaluate the cell on the benchmark again.") from error


def _seen_in_pictures(
    keys: Sequence[str],
    *,
    cells: Path,
    plan: ExplainPlan,
    said: Callable[[str], str],
    pixels: Callable[[str], np.ndarray],
) -> dict[str, dict[int, dict[str, Any]]]:
    """As `_seen_of_test`; `said` is a question as it was asked, which the choice of patches may depend on."""
    found: dict[str, dict[int, dict[str, Any]]] = {key: {} for key in keys}
    for cell in (cell for cell in plan.cells if cell.is_largest and keys):
        vlm, words = load_cell(cells / cell.training / "model", cell=cell.measured)
        n_inputs, image_id = vlm.compressor.n_input_tokens, vlm.config.image_token_id
        prompter = Prompter(words, n_visual_tokens=n_inputs, image_token_id=image_id)
        for key in keys:
            places: list[Any] = []
            if vlm.compressor.moves_with_content and not vlm.compressor.inside_llm:
                prompt, patches_of = prompter(said(key), key), patches_reader(vlm, pixels)
                read = prompt_tensors(vlm, [prompt], patches_of=patches_of, pad_id=pad_id_of(words))
                with torch.no_grad(), positions_of(vlm.compressor) as places:
                    vlm(**read, logits_to_keep=1)
            found[key][cell.measured.n_visual_tokens] = what_is_seen(vlm.compressor, places[0] if places else None)[0]
    return found
