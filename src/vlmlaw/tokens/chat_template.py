"""Render conversations with a tokenizer's chat template, and locate each answer in the text.

Running a Jinja template takes tens of microseconds for each of a million turns. It therefore runs once per sequence of
roles, with placeholders into which messages are then filled, wherever that is certain to give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from vlmlaw.errors import UserError

Chat = tuple[tuple[str, str], ...]  # (role, text) of each message, in order
Rendered = tuple[str, list[tuple[int, int]]]  # text; characters (start, end) of answers with end markers

# Templates inspect messages to trim them, or to find markup such as </think>; in plain text there is nothing to find.
PLAIN = re.compile(r"(?:<image>\n)*[\w.,;:?!'\"()%$€£+-]+(?:[ \n][\w.,;:?!'\"()%$€£+-]+)*")


class Renderer:
    """Renders chats with a tokenizer's template."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._forms: dict[tuple[str, ...], _Form | None] = {}

    def __call__(self, chat: Chat) -> Rendered:
        """Return the chat's text and the spans of answers. Raises UserError if the template rewrites earlier turns."""
        roles = tuple(role for role, _ in chat)
        if roles not in self._forms:
            self._forms[roles] = self._form(roles)
        form = self._forms[roles]
        if form is None or not all(PLAIN.fullmatch(said) for _, said in chat):
            return self.slow(chat)
        return form.fill([said for _, said in chat])

    def text(self, chat: Chat, **options: Any) -> str:
        """Render the chat by running the template, with options passed on to it."""
        messages = [{"role": role, "content": said} for role, said in chat]
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # a template is somebody's program and can fail in any way
            raise UserError(
                f"the chat template fails on {len(chat)} messages of {', '.join(role for role, _ in chat[:4])}: "
                f"{error or type(error).__name__}. Correct it, or take `chat_template: chatml`."
            ) from error

    def slow(self, chat: Chat) -> Rendered:
        """Do the same as `__call__` by running the template, which is slow but always correct."""
        text = self.text(chat)
        spans = []
        for answer in (index for index, (role, _) in enumerate(chat) if role == "assistant"):
            prompt = self.text(chat[:answer], add_generation_prompt=True)
            turn = self.text(chat[: answer + 1])
            if not (text.startswith(turn) and turn.startswith(prompt)):
                raise UserError(
                    "the tokenizer's chat template renders a turn differently once its answer or another turn follows, "
                    "so answers cannot be found in its text; use a template that does not, or one turn a record."
                )
            spans.append((len(prompt), len(turn)))
        return text, spans

    def user_turns(self) -> UserTurns:
        """Return what the template writes around a user's message."""
        if self._tokenizer.chat_template is None:
            return UserTurns("", "")
        form = self._form(("user", "assistant", "user"))
        return UserTurns("", "") if form is None else UserTurns.between(form.pieces)

    def _form(self, roles: tuple[str, ...]) -> _Form | None:
        """Rendered placeholders for messages of these roles; None if the template drops or changes one."""
        marks = [f"mark{index}of{len(roles)}" for index in range(len(roles))]
        text, spans = self.slow(tuple(zip(roles, marks, strict=True)))
        pieces = re.split("|".join(map(re.escape, marks)), text)
        whole = "".join(said for pair in zip(pieces, [*marks, ""], strict=False) for said in pair)
        return _Form(pieces, marks, spans) if len(pieces) == len(roles) + 1 and whole == text else None


@dataclass(frozen=True)
class UserTurns:
    """What a template writes before and after a user's message; "" if it is only white space."""

    before: str
    behind: str

    @classmethod
    def between(cls, pieces: Sequence[str]) -> UserTurns:
        """Derive it from the text around the messages of a user, an assistant and a user again."""
        before = _common_start(pieces[0][::-1], pieces[2][::-1])[::-1].strip()
        behind = _common_start(pieces[1], pieces[3]).strip() or pieces[1].strip()
        return cls(before, behind)

    def around(self, text: str, place: int) -> str:
        """Return the user's message around position `place` of a rendered text."""
        start = text.rfind(self.before, 0, place) if self.before else -1
        end = text.find(self.behind, place) if self.behind else -1
        return text[place if start < 0 else start + len(self.before) : None if end < 0 else end]


def _common_start(text: str, other: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))


class _Form:
    """A rendered template, split at its placeholders: pieces[i] precedes the i-th message."""

    def __init__(self, pieces: list[str], marks: list[str], spans: list[tuple[int, int]]):
        self.pieces = pieces
        self._spans = spans
        self._n_mark = [len(mark) for mark in marks]

    @cached_property
    def _n_said_before(self) -> list[tuple[int, int]]:
        """Number of messages before the start and end of each span."""
        ends = []
        at = 0
        for piece, n_mark in zip(self.pieces, self._n_mark, strict=False):
            at += len(piece) + n_mark
            ends.append(at)
        return [(sum(end <= a for end in ends), sum(end <= b for end in ends)) for a, b in self._spans]

    def fill(self, chat: Sequence[str]) -> Rendered:
        """Insert these messages, and shift the spans of answers by the difference to the placeholders' lengths."""
        grown = [0]
        for said, n_mark in zip(chat, self._n_mark, strict=True):
            grown.append(grown[-1] + len(said) - n_mark)
        text = "".join([part for pair in zip(self.pieces, chat, strict=False) for part in pair]) + self.pieces[-1]
        spans = [
            (start + grown[before_start], end + grown[before_end])
            for (start, end), (before_start, before_end) in zip(self._spans, self._n_said_before, strict=True)
        ]
        return text, spans
