"""A benchmark's questions as a file: JSON (a list) or JSON lines, one object a question, and its images.

`{"id", "image", "question", "answer" or "answers", "options", "kind"}`; `image`, `options` and `kind` may be absent.
`image` is a name or a list of names, which stand before the question or where it has `<image>`.
Answers are texts or numbers, or objects with the text as `answer`, as in VQA's annotations.
Images are files of a folder, or images of a dataset in the shards of this project. All of it is checked before a model
is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlmlaw.data.image_file import UnreadableImage, open_rgb
from vlmlaw.data.image_folder import fault_of
from vlmlaw.data.record import IMAGE_PLACEHOLDER
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.evaluation.metrics import LETTERS, Metric, Question

KEYS = {"id", "image", "question", "answer", "answers", "options", "kind"}


def read_questions(path: Path, *, metric: Metric) -> list[Question]:
    """The questions of a file. Raises UserError naming file and question: what is missing, unknown or unfit."""
    rows = _rows(path)
    if not rows:
        raise UserError(f"{path} holds no question.")
    questions = [_question(row, where=f"question {number} of {path}") for number, row in enumerate(rows, start=1)]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UserError(f"two questions of {path} have the id {question.id!r}; replies could not tell them apart.")
        seen.add(question.id)
        try:
            metric.check(question)
        except ValueError as error:
            raise UserError(f"question {question.id!r} of {path}: {error}.") from error
    return questions


def _rows(path: Path) -> list[Any]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        rows = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {path} as JSON ({error}); expected a list of questions, or JSON lines."
        ) from error
    if not isinstance(rows, list):
        raise UserError(f"{path} holds a {type(rows).__name__}; expected a list of questions.")
    return rows


def _question(row: Any, *, where: str) -> Question:
    if not isinstance(row, dict) or not {"id", "question"} <= set(row) or ("answer" in row) == ("answers" in row):
        raise UserError(f"{where}: found {str(row)[:120]}; expected `id`, `question`, and `answer` or `answers`.")
    unknown = sorted(set(row) - KEYS)
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(KEYS))}.")
    answers = row["answers"] if "answers" in row else [row["answer"]]
    options = row.get("options") or []
    if not isinstance(answers, list) or not isinstance(options, list):
        raise UserError(f"{where}: `answers` and `options` must be lists.")
    answers = [_text(answer, where=f"{where}: `answers`") for answer in map(_annotated, answers)]
    if not any(answer.strip() for answer in answers):
        raise UserError(f"{where}: it has no answer, so no reply could be right; add one or remove the question.")
    given = row.get("image") or []
    images = tuple(_text(name, where=f"{where}: `image`") for name in (given if isinstance(given, list) else [given]))
    return Question(
        id=_text(row["id"], where=f"{where}: `id`"),
        text=_with_places(_text(row["question"], where=f"{where}: `question`"), len(images), where=where),
        answers=tuple(answers),
        image=images[0] if images else None,
        more_images=images[1:],
        options=tuple(_text(option, where=f"{where}: `options`") for option in options),
        kind=_text(row.get("kind", ""), where=f"{where}: `kind`"),
    )


def _with_places(text: str, n_images: int, *, where: str) -> str:
    """The question's text, without the place of a single image, which stands before it anyway."""
    n_places = text.count(IMAGE_PLACEHOLDER)
    if n_places not in (0, n_images):
        raise UserError(
            f"{where}: its text has {n_places} {IMAGE_PLACEHOLDER} for {n_images} images; expected one for each, or "
            "none, where they stand before the text."
        )
    return text.replace(IMAGE_PLACEHOLDER, "").strip() if n_images == 1 else text


def _annotated(answer: Any) -> Any:
    """An answer's text: of an annotator's object `{"answer", "answer_confidence", "answer_id"}` what was answered."""
    return answer["answer"] if isinstance(answer, dict) and "answer" in answer else answer


def _text(value: Any, *, where: str) -> str:
    """A text or number as text. Raises UserError for anything else, and for text that is no Unicode."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where} holds {str(value)[:60]!r}; expected text or a number.")
    text = str(value)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{where} holds {text[:60]!a}, half of a character (a lone surrogate); write it as UTF-8.")
    return text


def said_by_user(question: Question, instruction: str) -> str:
    """Question, options by letter, instruction: each on its line, as LLaVA-1.5 asks (arXiv 2310.03744, appendix).

    >>> question = Question(id="1", text="Which is red?", answers=("B",), options=("sky", "rose"))
    >>> print(said_by_user(question, "Answer with the letter."))
    Which is red?
    A. sky
    B. rose
    Answer with the letter.
    """
    options = [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    return "\n".join(part for part in (question.text, *options, instruction) if part)


def clusters_of(questions: Sequence[Question]) -> np.ndarray:
    """The cluster of each question (Q,): those on one image belong together, one without an image stands alone."""
    return np.array([f"image {q.images}" if q.images else f"question {q.id}" for q in questions])


def image_reader(images: Path, questions: list[Question], *, source: Path) -> Callable[[str], np.ndarray]:
    """A function from an image's name to its pixels_HWC (uint8).

    `images` is a folder of image files, or a dataset folder of the project. Raises UserError, before anything is read,
    naming a question whose image is not there or leaves the folder; the function does, naming the image, when it cannot
    be decoded.
    """
    if (images / "index.npz").exists():
        data = Dataset(images)
        row_of = {name: row for row, name in enumerate(data.image_names)}
        _demand(questions, lambda name: "" if name in row_of else "is missing", images, source)
        return lambda name: data.image(row_of[name])
    _demand(questions, partial(fault_of, images), images, source)
    return lambda name: _decode(images / name)


def _demand(questions: list[Question], fault: Callable[[str], str], images: Path, source: Path) -> None:
    faults = [(question.id, name, why) for question in questions for name in question.images if (why := fault(name))]
    if faults:
        which, name, why = faults[0]
        raise UserError(
            f"question {which!r} of {source} names the image {name[:120]!r}, which {why}; "
            f"{len({which for which, *_ in faults})} of {len(questions)} questions lack theirs. Images are read below "
            f"{images}, or below another folder that `images` names."
        )


def _decode(path: Path) -> np.ndarray:
    try:
        return np.asarray(open_rgb(path))
    except UnreadableImage as error:
        raise UserError(f"the image {path} {error}.") from error
