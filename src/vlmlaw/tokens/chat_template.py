"""Render conversations with a tokenizer's chat template, and locate each answer in the text.

A template is a program that takes tens of microseconds for each of a million turns. It is run once for each number
of turns, with marks in place of the messages, and then filled in, wherever that gives the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from vlmlaw.errors import UserError

Rendered = tuple[str, list[tuple[int, int]]]  # a text, and the characters of each answer, its end marker included

# Templates look at what is said to trim it, or for markup such as </think>; plain text gives them nothing to find.
PLAIN = re.compile(r"(?:<image>\n)?[\w.,;:?!'\"()%$€£+-]+(?:[ \n][\w.,;:?!'\"()%$€£+-]+)*")


class Renderer:
    """Renders chats, each a sequence of user and assistant messages in turn, with a tokenizer's template."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._forms: dict[int, _Form | None] = {}

    def __call__(self, chat: Sequence[str]) -> Rendered:
        """The chat's text and its answers' spans. Raises UserError for a template that rewrites earlier turns."""
        n_said = len(chat)
        if n_said not in self._forms:
            self._forms[n_said] = self._form(n_said)
        form = self._forms[n_said]
        if form is None or not all(PLAIN.fullmatch(said) for said in chat):
            return self._render(chat)
        return form.fill(chat)

    def _render(self, chat: Sequence[str]) -> Rendered:
        """Render with the template itself, which is slow."""
        roles = ("user", "assistant")
        messages = [{"role": roles[index % 2], "content": said} for index, said in enumerate(chat)]
        text = self._apply(messages)
        spans = []
        for answer in range(1, len(chat), 2):
            prompt = self._apply(messages[:answer], add_generation_prompt=True)
            turn = self._apply(messages[: answer + 1])
            if not (text.startswith(turn) and turn.startswith(prompt)):
                raise UserError(
                    "the tokenizer's chat template renders a turn differently once its answer or another turn follows, "
                    "so answers cannot be found in its text; use a template that does not, or one turn a record."
                )
            spans.append((len(prompt), len(turn)))
        return text, spans

    def _apply(self, messages: list[dict[str, str]], **options: Any) -> str:
        return self._tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def _form(self, n_said: int) -> _Form | None:
        """The template's text for this number of turns, with marks in place of messages; None where it hides a mark."""
        marks = [f"mark{index}of{n_said}" for index in range(n_said)]
        text, spans = self._render(marks)
        pieces = re.split("|".join(map(re.escape, marks)), text)
        whole = "".join(said for pair in zip(pieces, [*marks, ""], strict=False) for said in pair)
        return _Form(pieces, marks, spans) if len(pieces) == n_said + 1 and whole == text else None


class _Form:
    """A rendered template cut at its marks: pieces[i] precedes the i-th message."""

    def __init__(self, pieces: list[str], marks: list[str], spans: list[tuple[int, int]]):
        self._pieces = pieces
        self._spans = spans
        self._n_mark = [len(mark) for mark in marks]

    @cached_property
    def _n_said_before(self) -> list[tuple[int, int]]:
        """Number of messages before the start and end of each span."""
        ends = []
        at = 0
        for piece, n_mark in zip(self._pieces, self._n_mark, strict=False):
            at += len(piece) + n_mark
            ends.append(at)
        return [(sum(end <= a for end in ends), sum(end <= b for end in ends)) for a, b in self._spans]

    def fill(self, chat: Sequence[str]) -> Rendered:
        grown = [0]
        for said, n_mark in zip(chat, self._n_mark, strict=True):
            grown.append(grown[-1] + len(said) - n_mark)
        text = "".join([part for pair in zip(self._pieces, chat, strict=False) for part in pair]) + self._pieces[-1]
        spans = [
            (start + grown[before_start], end + grown[before_end])
            for (start, end), (before_start, before_end) in zip(self._spans, self._n_said_before, strict=True)
        ]
        return text, spans
