"""Turn messages into the tokens that a model reads, and into the question about each image.

Training, benchmarks, chat and the processor all use this module, so that a model is prompted as it was trained.
A message is transformers': `{"role", "content"}`, the content a text with `<image>` in each image's place, or a list
of parts, `{"type": "image", "image" or "url" or "path" or "base64"}` and `{"type": "text", "text"}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.tokens.chat_template import Chat, Renderer, UserTurns
from vlmlaw.tokens.control_tokens import MARK, ControlTokens, Tokens, literal, unmarked_place

IMAGE_KEYS = ("image", "url", "path", "base64", "image_url")  # where a part may hold its image


@dataclass(frozen=True)
class TokenizedChat:
    """A chat's tokens, with one token for each image."""

    ids: list[int]
    answers: list[tuple[int, int]]  # first token and end of each of the assistant's answers
    questions: list[list[int]]  # the question about each image, tokenized alone


def plain_chat(messages: Sequence[Mapping[str, Any]]) -> tuple[Chat, list[Any]]:
    """Return messages as (role, text) with `<image>` in each image's place, and the images of their parts in order.

    An image's part stands on a line of its own; other parts follow one another. Raises UserError for a message
    without a role, and for a part that is neither text nor image.

    >>> parts = [{"type": "image", "path": "cat.png"}, {"type": "text", "text": "What is it?"}]
    >>> plain_chat([{"role": "user", "content": parts}])
    ((('user', '<image>\\nWhat is it?'),), ['cat.png'])
    """
    chat, images = [], []
    for message in messages:
        if "role" not in message:
            raise UserError(f"a message has no role: {str(message)[:80]}; expected `role` and `content`.")
        content = message.get("content")
        text, shown = (content or "", []) if content is None or isinstance(content, str) else _joined(content)
        chat.append((str(message["role"]), text))
        images += shown
    return tuple(chat), images


def _joined(parts: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]]:
    """Join a message's parts to one text, and return it with their images."""
    text, images, before = "", list[Any](), "text"
    for part in parts:
        kind = part.get("type")
        if kind in ("image", "image_url"):
            held = next((part[key] for key in IMAGE_KEYS if part.get(key) is not None), None)
            if held is not None:
                images.append(held.get("url") if isinstance(held, Mapping) else held)
        elif kind != "text":
            raise UserError(f"a message has a part of type {kind!r}; a cell reads parts of type text and image.")
        elif not isinstance(part.get("text"), str):
            raise UserError(f"a message has a part of type text with {part.get('text')!r:.60}; expected its `text`.")
        said = literal(part["text"]) if kind == "text" else IMAGE_PLACEHOLDER
        if said:
            on_its_line = text and not kind == before == "text"
            text, before = text + ("\n" if on_its_line else "") + said, kind
    return text, images


def bare(text: str) -> str:
    """Return a text without its images: the question about them.

    >>> bare("<image>\\n<image>\\nWhat differs?")
    'What differs?'
    """
    return re.sub(re.escape(IMAGE_PLACEHOLDER) + "\n?", "", text).strip()


def questions_of(chat: Chat) -> list[str]:
    """Return the question about each image: the bare text of the user's turn that shows it (QueCC's released rule).

    For an image without words it is what the user says next, before anyone answers.

    >>> questions_of((("user", "<image>\\nWhat is it?"), ("assistant", "A cat."), ("user", "Its color?")))
    ['What is it?']
    """
    questions = []
    for index, (_, text) in enumerate(chat):
        asked = ""
        for role, later in chat[index:]:
            if asked or role == "assistant":
                break
            asked = bare(later) if role == "user" else ""
        questions += [asked] * text.count(IMAGE_PLACEHOLDER)
    return questions


class ChatTokenizer:
    """Turns messages into tokens, with a tokenizer and its chat template.

    >>> from vlmlaw.data.miniature.write import build_tokenizer
    >>> words = build_tokenizer()
    >>> (found,) = ChatTokenizer(words).prompts([(("user", "<image>\\nshape red"),)])
    >>> words.decode(found.ids), words.decode(found.questions[0])
    ('<image> shape red', 'shape red')
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._render = Renderer(tokenizer)
        self._controls = ControlTokens(tokenizer)

    def end_of_answer(self) -> int | None:
        """Return the control token that the template puts behind an answer; None if it puts none."""
        text, ((start, end),) = self._render((("user", "mark"), ("assistant", "mark")))
        behind = text[start:end].partition("mark")[2]
        ids = self._tokenizer(behind, add_special_tokens=False)["input_ids"]
        return next((token for token in ids if token in self._controls.ids), None)

    def require_end(self) -> None:
        """Raise UserError for a template with which a model would not learn to end its answers."""
        if self.end_of_answer() is None:
            raise UserError(
                "the chat template puts no control token behind an answer, so a model would not learn to end it and "
                f"would go on after each; let the template end answers with the tokenizer's eos_token "
                f"({self._tokenizer.eos_token!r}), or take `chat_template: chatml`."
            )

    def dialogues(self, chats: Sequence[Chat]) -> list[TokenizedChat]:
        """Tokenize whole chats, whose answers are to be learned.

        Raises UserError if a token holds the end of a prompt and the start of an answer.
        """
        chats = [self._controls.guard(chat) for chat in chats]
        texts, spans_of_text = zip(*map(self._render, chats), strict=True) if chats else ((), ())
        read = self._controls.encode(texts)
        places = []
        for text, tokens, spans in zip(texts, read, spans_of_text, strict=True):
            unmarked = [(unmarked_place(text, start), unmarked_place(text, end)) for start, end in spans]
            places.append([_tokens_within(tokens.encoding, span) for span in unmarked])
            _require_own_tokens(text, tokens.encoding, unmarked, places[-1])
        return self._tokenized(read, places, [questions_of(chat) for chat in chats])

    def text(self, chat: Chat, **options: Any) -> str:
        """Return the chat's text; `options` are the template's own."""
        return self._render.text(chat, **options).replace(MARK, "")

    def prompts(self, chats: Sequence[Chat], **options: Any) -> list[TokenizedChat]:
        """Tokenize chats that the assistant is to answer; `options` are the template's own."""
        options = {"add_generation_prompt": True} | options
        chats = [self._controls.guard(chat) for chat in chats]
        read = self._controls.encode([self._render.text(chat, **options) for chat in chats])
        return self._tokenized(read, [[] for _ in chats], [questions_of(chat) for chat in chats])

    def rendered(self, texts: Sequence[str]) -> list[TokenizedChat]:
        """Tokenize texts that the template has made; the question about an image is found by the template's marks.

        A text without them is a question as a whole.
        """
        asked = [self._questions_in(text) for text in texts]
        return self._tokenized(self._controls.encode(texts), [[] for _ in texts], asked)

    def _questions_in(self, text: str) -> list[str]:
        places = [place.start() for place in re.finditer(re.escape(IMAGE_PLACEHOLDER), text)]
        return [bare(self._user_turns.around(text, place)) for place in places]

    @cached_property
    def _user_turns(self) -> UserTurns:
        return self._render.user_turns()

    def _tokenized(
        self, read: Sequence[Tokens], places: Sequence[list[tuple[int, int]]], asked: Sequence[list[str]]
    ) -> list[TokenizedChat]:
        different = list(dict.fromkeys(question for questions in asked for question in questions))
        # As in QueCC's released code, with the special tokens that the tokenizer itself puts around a text.
        ids_of = self._controls.ids_of(different)
        return [
            TokenizedChat(tokens.ids, answers, [ids_of[question] for question in questions])
            for tokens, answers, questions in zip(read, places, asked, strict=True)
        ]


def _require_own_tokens(
    text: str, encoding: Any, spans: Sequence[tuple[int, int]], places: Sequence[tuple[int, int]]
) -> None:
    for (first, end), (start, _) in zip(places, spans, strict=True):
        if first < end and encoding.offsets[first][0] < start:
            raise UserError(
                f"the tokenizer's token {encoding.tokens[first]!r} holds the end of a prompt and the start of its "
                f"answer in {text[:80]!r}; end the chat template's prompt with a token of its own."
            )


def _tokens_within(encoding: Any, span: tuple[int, int]) -> tuple[int, int]:
    """Return first token and end of those that hold the characters of a span; an empty range if there are none."""
    ends = []
    for places in (range(*span), reversed(range(*span))):
        tokens = (encoding.char_to_token(place) for place in places)  # None between tokens
        ends.append(next((token for token in tokens if token is not None), None))
    first, last = ends
    return (0, 0) if first is None or last is None else (first, last + 1)
