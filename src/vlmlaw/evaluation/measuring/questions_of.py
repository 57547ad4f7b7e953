"""One's own questions: a file in the project's format, or a folder of images with a CSV of what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmlaw.errors import UserError
from vlmlaw.evaluation.metrics import Metric, Question, metric_called, yes_or_no
from vlmlaw.evaluation.questions import clusters_of, read_questions
from vlmlaw.laws.files import parse_tables, read_bytes

FEW = 20
NAMES = {
    "image": ("image", "file", "filename", "path"),
    "answer": ("answer", "label", "right", "truth"),
    "question": ("question", "prompt", "text"),
    "id": ("id",),
    "kind": ("kind", "category"),
}


@dataclass(frozen=True)
class QuestionSet:
    """Questions with the metric that judges them and the folder of their images."""

    name: str
    questions: Sequence[Question]
    images: Path
    metric_name: str
    source: Path

    @property
    def metric(self) -> Metric:
        return metric_called(self.metric_name)


def read_question_set(path: Path, *, images: Path | None, metric: str | None, question: str | None) -> QuestionSet:
    """Read JSON, JSON lines, a CSV, or a folder that holds one CSV beside its images.

    metric: None chooses by the answers: options, yes and no, or words. question: what is asked of each image of a CSV
    without a column of questions. Raises UserError for anything that could not be asked or judged.
    """
    if path.is_dir():
        tables = sorted([*path.glob("*.csv"), *path.glob("*.tsv")])
        if len(tables) != 1:
            raise UserError(
                f"{path} holds {len(tables)} CSV files; expected one, with a column `image` and a column `answer`, "
                "beside the images it names."
            )
        path, images = tables[0], images or path
    if not path.is_file():
        raise UserError(f"{path} is not there; expected a file of questions (JSON lines), or a folder with a CSV.")
    images = images or path.parent
    if path.suffix in (".csv", ".tsv"):
        found = _of_csv(path, question)
        name = metric or _fitting(found)
        for one in found:
            try:
                metric_called(name).check(one)
            except ValueError as error:
                raise UserError(f"line {one.id} of {path}: {error}.") from error
    else:
        found = read_questions(path, metric=metric_called(metric or "exact_match"))  # which judges any
        name = metric or _fitting(found)
        found = found if metric else read_questions(path, metric=metric_called(name))
    _require_measurable(found, path)
    return QuestionSet(path.stem, found, images, name, path)


def _require_measurable(questions: Sequence[Question], path: Path) -> None:
    """Raise UserError where V could change nothing, or nothing could be said of how sure a difference is."""
    if empty := [question.id for question in questions if not question.text.strip()]:
        raise UserError(f"question {empty[0]!r} of {path} has no text; say what is asked of its image.")
    if not any(question.images for question in questions):
        raise UserError(
            f"no question of {path} has an image, so visual tokens would change nothing; name one by `image`."
        )
    if len(set(clusters_of(questions))) < 2:
        raise UserError(
            f"the questions of {path} are all on one image, and how sure a difference is shows only across images; add "
            "questions on others, 50 images or more."
        )


def _fitting(questions: Sequence[Question]) -> str:
    """The metric that these answers ask for."""
    if all(question.options for question in questions):
        return "multiple_choice"
    if all(len(q.answers) == 1 and yes_or_no(q.answers[0]) == q.answers[0].strip(" .").lower() for q in questions):
        return "yes_no"
    return "exact_match"


def _of_csv(path: Path, question: str | None) -> list[Question]:
    table = parse_tables(*read_bytes(path))[0]
    lower = {str(name).lower(): name for name in table.columns if name != "line"}
    columns = {key: next((lower[n] for n in names if n in lower), None) for key, names in NAMES.items()}
    if columns["answer"] is None or (columns["image"] is None and columns["question"] is None):
        raise UserError(
            f"{path} has the columns {', '.join(lower.values())}; expected `image` and `answer`, and `question` where "
            "each image has its own."
        )
    if columns["question"] is None and not question:
        raise UserError(f'{path} has no column `question`; say what is asked of every image, as --question "...".')
    rows = []
    for row in table.to_dict("records"):
        value = {key: str(row[name]) if name is not None else "" for key, name in columns.items()}
        if not value["answer"]:
            raise UserError(
                f"{path} line {row['line']} has no answer, so no reply could be right; add one, or remove it."
            )
        rows.append(
            Question(
                id=value["id"] or str(row["line"]),
                text=value["question"] or question or "",
                answers=(value["answer"],),
                image=value["image"] or None,
                kind=value["kind"],
            )
        )
    ids = [row.id for row in rows]
    repeated = next((name for name in ids if ids.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"two questions of {path} have the id {repeated!r}; replies could not tell them apart.")
    return rows
