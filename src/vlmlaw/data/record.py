"""A record of images and questions with answers, read strictly from LLaVA's layout.

`{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}` as in LLaVA's instruction data
(github.com/haotian-liu/LLaVA), and beside it `context` (text before every question), `suite` and `kinds` (one for each
question). A record without image is text only. Several images are a list, as in LLaVA-NeXT's data, and stand where the
questions have `<image>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from vlmlaw.errors import UserError

IMAGE_PLACEHOLDER = "<image>"
SPEAKERS = ("human", "gpt")
KEYS = ("id", "image", "images", "conversations", "context", "suite", "kinds")
TURN_KEYS = ("from", "value")
# Bookkeeping of published data sets, which a model does not read.
NOT_READ = ("model", "source", "data_source", "dataset", "unique_id", "image_id", "question_id", "width", "height")


@dataclass(frozen=True)
class Record:
    """Images (or none) and their questions with answers.

    A single image is shown before every question, or with a dialogue's first question, unless `<image>` in a question
    gives it another place. Several images always stand where the questions have `<image>`, in order.
    """

    id: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    image: str | None = None
    context: str = ""  # text that stands before every question
    suite: str = ""
    kinds: tuple[str, ...] = field(default=())
    more_images: tuple[str, ...] = ()  # those after the first

    @property
    def images(self) -> tuple[str, ...]:
        """Names of all images, in the order of their places."""
        return () if self.image is None else (self.image, *self.more_images)

    def with_images(self, images: Sequence[str]) -> Record:
        """Return the same record with these images."""
        return replace(self, image=images[0] if images else None, more_images=tuple(images[1:]))

    def prompt(self, question: str) -> str:
        """Return the user's turn: the image's placeholder unless a question has it, the context, and the question."""
        has_place = any(IMAGE_PLACEHOLDER in one for one in self.questions)
        shown = IMAGE_PLACEHOLDER if self.image and not has_place else ""
        return "\n".join(part for part in (shown, self.context, question) if part)

    def each_question(self) -> list[Record]:
        """Return each question as a record of its own, with the images shown up to it."""
        kinds = self.kinds or ("",) * len(self.questions)
        parts, seen = [], 0
        places = [question.count(IMAGE_PLACEHOLDER) for question in self.questions]
        for number, (question, answer, kind) in enumerate(zip(self.questions, self.answers, kinds, strict=True)):
            images = self.images if not any(places) else self.images[: seen + places[number]]
            before = "\n".join([IMAGE_PLACEHOLDER] * (seen if len(images) > 1 else 0))
            text = question if len(images) > 1 else question.replace(IMAGE_PLACEHOLDER, "").strip()
            name = self.id if len(self.questions) == 1 else f"{self.id}-{number}"
            own = replace(self, id=name, questions=("\n".join(filter(None, (before, text))),), answers=(answer,))
            parts.append(replace(own.with_images(images), kinds=(kind or "question",)))
            seen += places[number]
        return parts

    def to_json(self) -> dict[str, Any]:
        """Return the record in LLaVA's layout, with the placeholder in the first question if no question has it."""
        has_place = any(IMAGE_PLACEHOLDER in question for question in self.questions)
        turns = []
        for index, (question, answer) in enumerate(zip(self.questions, self.answers, strict=True)):
            shown = f"{IMAGE_PLACEHOLDER}\n{question}" if index == 0 and self.image and not has_place else question
            turns += [{"from": "human", "value": shown}, {"from": "gpt", "value": answer}]
        images: Any = list(self.images) if self.more_images else self.image
        head: dict[str, Any] = {"id": self.id} | ({"image": images} if images else {})
        extra: dict[str, Any] = {"suite": self.suite, "kinds": list(self.kinds)} if self.kinds else {}
        extra |= {"context": self.context} if self.context else {}
        return head | extra | {"conversations": turns}

    @classmethod
    def from_json(cls, row: dict[str, Any], *, source: str) -> Record:
        """Parse one record. Raises UserError with record and file for all that could not be learned as it stands.

        That is: turns that do not alternate, an empty answer, an unknown key, another number of `<image>` than of
        images, a value of the wrong type, text that is not Unicode.
        """
        if not isinstance(row, dict) or "id" not in row:
            raise UserError(f"{source}: found {str(row)[:80]}; expected records with at least `id`, `conversations`.")
        where = place_of(row["id"], source)
        _require_known_keys(row, KEYS, where)
        questions, answers = _turns(row.get("conversations"), where)
        images = _images(row, where)
        n_places = sum(question.count(IMAGE_PLACEHOLDER) for question in questions)
        if n_places != len(images):
            raise UserError(
                f"{where}: its questions have {n_places} {IMAGE_PLACEHOLDER} for {len(images)} images; expected one "
                "for each, where it stands. Correct the text, or `image`."
            )
        if len(images) == 1 and IMAGE_PLACEHOLDER in questions[0]:
            questions = (questions[0].replace(IMAGE_PLACEHOLDER, "").strip(), *questions[1:])
        context = _text(row.get("context") or "", "context", where)
        if IMAGE_PLACEHOLDER in context:
            raise UserError(f"{where}: its context has {IMAGE_PLACEHOLDER}, which belongs in a question.")
        return cls(
            id=_name(row["id"], "id", where),
            questions=questions,
            answers=answers,
            context=context,
            suite=_text(row.get("suite") or "", "suite", where),
            kinds=_kinds(row.get("kinds") or (), len(questions), where),
        ).with_images(images)


def place_of(record_id: Any, source: str) -> str:
    """Name a record in an error message."""
    return f"record {str(record_id)[:80]!a} of {source}"


def at_its_place(text: str) -> str:
    """Move a turn's only `<image>` to its front, as LLaVA does in training; several stay in place, as in LLaVA-NeXT.

    >>> at_its_place("What is in <image>?")
    '<image>\\nWhat is in ?'
    >>> at_its_place("Is <image> like <image>?")
    'Is <image> like <image>?'
    """
    text = text.strip()
    if text.count(IMAGE_PLACEHOLDER) != 1:
        return text
    return f"{IMAGE_PLACEHOLDER}\n{text.replace(IMAGE_PLACEHOLDER, '').strip()}".strip()


def require_unicode(text: str, what: str, where: str) -> None:
    """Raise UserError for half of a surrogate pair, which JSON can contain but no file or tokenizer accepts."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"{where}: its {what} holds half of a character (a lone surrogate) in {text[:60]!a}; write it as UTF-8."
        )


def _require_known_keys(row: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key, value in row.items():
        if key not in known and key not in NOT_READ and value not in (None, "", [], {}):
            raise UserError(
                f"{where}: the key {key!a} ({str(value)[:40]!a}) is not read, so what it says would not be learned; "
                f"the keys are {', '.join(known)}. Bring it into them, or remove the key."
            )


def _turns(turns: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the questions, each with its images in place, and the answers."""
    turns = [] if turns is None else turns
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(f"{where}: it has no list of `conversations`.")
    speakers = [turn.get("from") if "value" in turn else "nobody" for turn in turns]
    if not turns or speakers != [*SPEAKERS] * (len(turns) // 2):
        raise UserError(
            f"{where}: conversations must alternate human, gpt and end with gpt; found {str(speakers)[:200]}. "
            "Fix or remove the record."
        )
    for turn in turns:
        _require_known_keys(turn, TURN_KEYS, where)
        if not isinstance(turn["value"], str):
            raise UserError(f"{where}: a turn has no text as its `value` but {str(turn['value'])[:60]!a}.")
        require_unicode(turn["value"], "conversation", where)
    values = [turn["value"].strip() for turn in turns]
    if any(IMAGE_PLACEHOLDER in answer for answer in values[1::2]):
        raise UserError(f"{where}: an answer holds {IMAGE_PLACEHOLDER}; a model reads images and makes none.")
    if not all(values[1::2]):
        raise UserError(f"{where}: an answer is empty, so there is nothing to learn from it. Remove that turn.")
    return tuple(map(at_its_place, values[0::2])), tuple(values[1::2])


def _images(row: dict[str, Any], where: str) -> tuple[str, ...]:
    if row.get("image") and row.get("images"):
        raise UserError(f"{where}: it has both `image` and `images`; put all into one, in the order of their places.")
    given = row.get("image") or row.get("images") or []
    names = given if isinstance(given, list) else [given]
    if not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{where}: its image is {str(given)[:60]!a}; expected one file's name, or a list of names.")
    return tuple(_name(name, "image", where) for name in names)


def _name(value: Any, what: str, where: str) -> str:
    """Return a record's or an image's name as text; an image's must lie within the folder of images."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: its {what} is {str(value)[:60]!a}; expected text or a whole number.")
    text = str(value)
    require_unicode(text, what, where)
    if what == "image" and ("\0" in text or PurePosixPath(text).is_absolute() or ".." in PurePosixPath(text).parts):
        raise UserError(
            f"{where}: its image {text[:80]!a} is no file below the folder of images; expected one that is."
        )
    return text


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: its {what} is {str(value)[:60]!a}; expected text.")
    require_unicode(value, what, where)
    return value


def _kinds(kinds: Any, n_questions: int, where: str) -> tuple[str, ...]:
    if not isinstance(kinds, list | tuple) or len(kinds) not in (0, n_questions):
        raise UserError(
            f"{where}: its kinds are {str(kinds)[:60]!a}; expected a list with one for each of {n_questions} questions."
        )
    return tuple(_text(kind, "kinds", where) for kind in kinds)
