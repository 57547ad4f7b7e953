"""Evaluation of a cell on a benchmark: generate a reply to each question, judge it, and compute the error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.evaluation.cell_facts import describe_cell
from vlmlaw.evaluation.metrics import F1_METRICS, Question, Verdict, metric_called
from vlmlaw.evaluation.questions import clusters_of, image_reader, read_questions, said_by_user
from vlmlaw.evaluation.scores import Score, score
from vlmlaw.runtime.progress import Progress
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.vlm.generate import Prompt, Prompter, replies
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.images import pixel_values
from vlmlaw.vlm.load import load_cell

if TYPE_CHECKING:
    from vlmlaw.evaluation.settings import BenchmarkSettings
    from vlmlaw.vlm.cell_name import MeasuredCell


def evaluate_benchmark(
    model: Path,
    questions: Path,
    images: Path,
    out: Path,
    *,
    settings: BenchmarkSettings,
    cell: MeasuredCell | None = None,
) -> None:
    """Evaluate a trained cell on a benchmark; write its error, size and cost to `out`, its replies beside it.

    cell: which cell it is, if several share the weights of the model.
    Raises UserError, before the model is loaded, for a question that cannot be asked or judged.
    """
    metric = metric_called(settings.metric)
    asked = read_questions(questions, metric=metric)
    if settings.metric in F1_METRICS and all(question.answers[0].lower().strip(" .") == "no" for question in asked):
        raise UserError(f"{questions} has no question whose answer is yes, so F1 is not defined; use yes_no.")
    read = image_reader(images, asked, source=questions)
    vlm, words = load_cell(model, dtype=settings.dtype, cell=cell)
    prompter = Prompter(words, n_visual_tokens=vlm.compressor.n_input_tokens, image_token_id=vlm.config.image_token_id)
    prompts = [prompter(said_by_user(question, settings.instruction), *question.images) for question in asked]
    said = [""] * len(asked)
    shown = Progress(len(asked), settings.name)
    for index, ids in replies(
        vlm,
        prompts,
        patches_of=patches_reader(vlm, read),
        stop_ids=prompter.stop_ids(),
        pad_id=pad_id_of(words),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
    ):
        said[index] = words.decode(ids, skip_special_tokens=True).strip()
        shown.step()
    shown.close()
    verdicts = [metric.judge(text, question) for text, question in zip(said, asked, strict=True)]
    lengths = {
        "n_text_tokens": round(float(np.mean([prompt.n_text_tokens for prompt in prompts]))),
        "question_tokens": mean_question_tokens(prompts),
    }
    scores = {settings.suite: {settings.name: asdict(score_of(verdicts, asked))}}
    result = {"scores": scores} | describe_cell(vlm, model, **lengths)
    with whole_file(out.with_suffix(".jsonl")) as partial:
        partial.write_text("".join(_lines(asked, said, verdicts)), encoding="utf-8")
    with whole_file(out) as partial:
        partial.write_text(json.dumps(result, indent=2))


def mean_question_tokens(prompts: Sequence[Prompt]) -> int:
    """The mean length of what images are asked, rounded; 0 where no prompt has an image."""
    lengths = [len(question) for prompt in prompts for question in prompt.questions]
    return round(float(np.mean(lengths))) if lengths else 0


def pad_id_of(tokenizer: Any) -> int:
    """The token id that pads a row; padding is masked, so any token will do."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def patches_reader(vlm: Any, read: Callable[[Any], np.ndarray]) -> Callable[[Sequence[Any]], ImageInputs]:
    """A function from images, in the form that `read` accepts, to the output of the vision tower for them."""

    def patches_of(images: Sequence[Any]) -> ImageInputs:
        return vlm.encode_images(pixel_values([read(image) for image in images], vlm.config).to(vlm.device))

    return patches_of


def score_of(verdicts: Sequence[Verdict], questions: Sequence[Question]) -> Score:
    """The error of the benchmark; questions on one image form a cluster, one without an image is its own cluster."""
    lost, weights = (np.array([getattr(v, key) for v in verdicts]) for key in ("lost", "weight"))
    unread = float(np.mean([not verdict.is_read for verdict in verdicts]))
    return replace(score(lost, clusters_of(questions), weights), unread=unread)


def _lines(questions: Sequence[Question], said: Sequence[str], verdicts: Sequence[Verdict]) -> list[str]:
    """Questions and replies, one JSON line for each question."""
    rows = [
        {"id": question.id, "kind": question.kind, "said": text, "answers": question.answers} | asdict(verdict)
        for question, text, verdict in zip(questions, said, verdicts, strict=True)
    ]
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
