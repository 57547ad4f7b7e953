"""The interface of whatever answers questions, and what it gives back.

To add a back end, write a class with the attributes and methods of `Backend` in a module of its own here, and open it
where `vlmlaw.cli.measure` opens the others, beside the `Model` (measuring/cells.py) that says its family and size: an
option of `vlmlaw measure` for each kind of back end. How a family's images become fewer tokens is a row of FAMILIES
(families.py). A back end has to

1. say in `check`, before anything is asked, which budgets its model cannot make and which it can (a `UserError`);
2. show the model a question's images at the budget: `None` as the model would see them by itself, 0 not at all (the
   blind cell: the same text without the images), any other V with at most V visual tokens for each image;
3. count: `n_prompt_tokens` is everything that the language model read. What the images added to it is found by
   comparison with the blind cell, so that a model that caps its images in silence is seen to. A back end that knows
   V itself, as one that runs the model does, says so in `n_visual_tokens`;
4. decode greedily, so that the same question at the same budget has the same reply;
5. raise `Unanswered` for a question that it will never answer, and keep trying where waiting can help.

Asking many questions, journals, resumption, metrics and statistics are not its task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Budget = int | None  # visual tokens for each image: 0 for none at all, None for as many as the model makes by itself
MAX = "max"
TRAINED_HERE = "trained here"  # the family of this project's cells, whose sizes share data and recipe


def budget_text(budget: Budget) -> str:
    """The budget as files and tables have it: `64`, or `max`."""
    return MAX if budget is None else str(budget)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model said to one question. A number that nobody could count or time is None."""

    text: str
    seconds: float  # from sending the question to the end of the reply
    first_token_seconds: float | None = None
    n_prompt_tokens: int | None = None  # text, images and chat template together
    n_visual_tokens: int | None = None  # of all images of the question, where the back end itself knows
    n_generated_tokens: int | None = None
    n_cached_tokens: int | None = None  # of the prompt, that the server did not have to read again
    finish: str = ""  # `length` where the reply was cut
    sizes: tuple[tuple[int, int], ...] = field(default=())  # height and width of the images as they were sent


class Unanswered(Exception):
    """A question that this model will not answer, however often it is asked; the text says why."""


class Backend(Protocol):
    """A model that answers questions about images."""

    name: str  # of the model, as tables have it
    family: str  # models of one family share a law; "" where it is not known
    identity: str  # of the weights that answer, as far as it is known: other weights are asked anew

    def check(self, budgets: Sequence[Budget]) -> None:
        """Raise UserError where the model does not answer, or cannot make one of the budgets; says which it can."""

    def ask(self, text: str, images: Sequence[np.ndarray], *, budget: Budget, max_new_tokens: int) -> Reply:
        """The reply to one question.

        images: pixels_HWC (uint8, RGB) of each; they stand before the text. budget: visual tokens for each of them.
        May be called from several threads at once. Raises Unanswered, or UserError where asking on is of no use.
        """

    def close(self) -> None:
        """Free connections or weights: its last question was asked."""
