"""Asking a cell every question: several at a time, each once, with every reply kept as it comes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlmlaw.data.record import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import Backend, Budget, Reply, Unanswered, budget_text
from vlmlaw.evaluation.backends.journal import Journal, key_of
from vlmlaw.evaluation.metrics import Question
from vlmlaw.evaluation.questions import said_by_user
from vlmlaw.runtime.progress import Progress

REFUSED_AT_FIRST = 3  # so many refusals and no reply, and the rest is not asked


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked: the questions, where their images are, what follows each, and how long a reply may be."""

    questions: Sequence[Question]
    read_image: Callable[[str], np.ndarray]
    instruction: str
    max_new_tokens: int
    digests: dict[str, str] = field(default_factory=dict)  # of images that were read before, by name

    def image_digest(self, name: str) -> str:
        """A hash of the image's pixels."""
        if name not in self.digests:
            pixels = np.ascontiguousarray(self.read_image(name))
            self.digests[name] = hashlib.blake2b(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()[:32]
        return self.digests[name]

    def key(self, question: Question, *, model: str, budget: Budget) -> str:
        """What the reply depends on, as a hash: a changed question or image is asked again, and no other."""
        shown = [self.image_digest(name) for name in question.images] if budget != 0 else []
        said = said_by_user(question, self.instruction)
        return key_of(model, budget_text(budget), said, str(self.max_new_tokens), *shown)


@dataclass(frozen=True)
class Answers:
    """Replies by the question's id, and why the others have none."""

    replies: Mapping[str, Reply]
    refused: Mapping[str, str]


def ask_cell(
    backend: Backend, asking: Asking, *, budget: Budget, journal: Path, concurrency: int = 1, label: str = ""
) -> Answers:
    """Ask a model every question at a budget, but for those whose replies the journal has.

    A question that the model refuses is left out and named in the result. Raises UserError where the server is gone
    for good, or refuses whatever it is asked first; what was answered is in the journal.
    """
    if placed := next((q.id for q in asking.questions if IMAGE_PLACEHOLDER in q.text), None):
        raise UserError(
            f"question {placed!r} has {IMAGE_PLACEHOLDER} in its text; a back end shows images before the text. Leave "
            "it out of the text, and refer to the first, the second image."
        )
    keys = {q.id: asking.key(q, model=backend.identity, budget=budget) for q in asking.questions}
    refused: dict[str, str] = {}
    with Journal(journal) as kept:
        missing = [question for question in asking.questions if keys[question.id] not in kept.replies]
        n_before = len(kept.replies)
        stop = threading.Event()

        def one(question: Question) -> None:
            if stop.is_set():
                return
            images = [asking.read_image(name) for name in question.images] if budget != 0 else []
            said = said_by_user(question, asking.instruction)
            try:
                reply = backend.ask(said, images, budget=budget, max_new_tokens=asking.max_new_tokens)
            except Unanswered as error:
                refused[question.id] = str(error)
                if len(refused) >= REFUSED_AT_FIRST and len(kept.replies) == n_before == 0:
                    raise UserError(
                        f"{backend.name} refuses the first {len(refused)} questions at V = {budget_text(budget)}: "
                        f"{error}. Nothing more was asked of it."
                    ) from error
                return
            kept.add(keys[question.id], question.id, reply)

        n_there = len(asking.questions) - len(missing)
        with (
            Progress(len(asking.questions), label or backend.name, done=n_there, on=bool(missing)) as shown,
            ThreadPoolExecutor(concurrency) as pool,
        ):
            waiting = [pool.submit(one, question) for question in missing]
            try:
                for done in as_completed(waiting):
                    done.result()
                    shown.step()
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        replies = {name: kept.replies[key] for name, key in keys.items() if key in kept.replies}
    return Answers(replies, refused)
