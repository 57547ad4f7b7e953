"""Read control tokens inside a message as plain text.

A tokenizer matches its control tokens (`<|im_end|>`, `</s>`, `<image>`) anywhere in a text. Inside a message they must
have no effect: a question about ChatML must not end its own turn. Each is therefore split by a mark before the template
is filled in, and the text is then encoded by a copy of the tokenizer in which the control tokens have other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vlmlaw.data.record import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.tokens.chat_template import Chat

MARK = "\ufdd0"  # a noncharacter, which Unicode reserves for internal use, so no text contains it
FIRST_NAME = 0xF0000  # private use area: a control token is renamed to one of its characters, repeated to equal length


@dataclass(frozen=True)
class Tokens:
    """Ids of the original tokenizer, and an encoding (other ids for renamed control tokens)."""

    ids: list[int]
    encoding: Any


def literal(text: str) -> str:
    """Split each `<image>` in the text by a mark, so that it does not stand for an image."""
    return text.replace(IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER[0] + MARK + IMAGE_PLACEHOLDER[1:])


class ControlTokens:
    """Control tokens of a tokenizer: its special tokens, and added tokens that its chat template writes."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        added = {str(token.content): token.special for token in tokenizer.added_tokens_decoder.values()}
        template = str(getattr(tokenizer, "chat_template", None) or "")
        named = {word for word, special in added.items() if special or (word.strip() and word in template)}
        self._all = {word for word in named if len(word) > 1} | {IMAGE_PLACEHOLDER}
        self._special = {word for word in self._all if added.get(word, True)}

    @property
    def _unknown(self) -> str | None:
        """The unknown token, which ordinary text can turn into."""
        own = getattr(self._tokenizer.backend_tokenizer.model, "unk_token", None)
        return own or self._tokenizer.unk_token

    @cached_property
    def ids(self) -> frozenset[int]:
        """Ids of all control tokens except the image's, end of text included."""
        known = self._tokenizer.get_vocab()
        steering = self._all - {IMAGE_PLACEHOLDER, self._unknown}
        found = {known.get(word) for word in steering} | {self._tokenizer.eos_token_id}
        return frozenset(token for token in found if token is not None)

    def guard(self, chat: Chat) -> Chat:
        """Split the control tokens in the chat's messages by MARK.

        `<image>` is left as it is, and so, in the assistant's messages, is markup that is no special token (`<think>`).
        """
        return tuple((role, self._guarded(role, text)) for role, text in chat)

    def _guarded(self, role: str, text: str) -> str:
        pattern = self._in_answers if role == "assistant" else self._in_messages
        return pattern.sub(lambda found: found[0][0] + MARK + found[0][1:], text) if pattern.search(text) else text

    @cached_property
    def _in_messages(self) -> re.Pattern[str]:
        return _any_of(self._all - {IMAGE_PLACEHOLDER})

    @cached_property
    def _in_answers(self) -> re.Pattern[str]:
        return _any_of(self._special - {IMAGE_PLACEHOLDER})

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Encode guarded texts. Raises UserError if the tokenizer can write a control token in no other way."""
        plain = [text for text in texts if MARK not in text]
        # One call of the (Rust) tokenizer for all: a call for each text takes ten times as long.
        options = {"add_special_tokens": False, "return_attention_mask": False}
        encodings = iter(self._tokenizer(plain, **options).encodings if plain else ())
        return [self._read(text) if MARK in text else _as_it_is(next(encodings)) for text in texts]

    def ids_of(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Encode guarded texts, with the tokens that the tokenizer itself puts in front of a text (BOS)."""
        plain = [text for text in texts if MARK not in text]
        found = dict(zip(plain, self._tokenizer(plain)["input_ids"] if plain else [], strict=True))
        before = self._tokenizer("")["input_ids"] if len(plain) < len(texts) else []
        return {text: found[text] if text in found else [*before, *self._read(text).ids] for text in texts}

    def _read(self, text: str) -> Tokens:
        renamed, own_id = self._renamed
        encoding = renamed.encode(self.unmarked(text), add_special_tokens=False)
        for token in encoding.tokens:
            if token in self._all and token != self._unknown:
                raise UserError(
                    f"the tokenizer can write {token!r} as a control token only, and it stands in what somebody says "
                    f"({text.replace(MARK, '')[:80]!a}); take it out of the text."
                )
        return Tokens([own_id.get(token, token) for token in encoding.ids], encoding)

    def unmarked(self, text: str) -> str:
        """Rename control tokens as the copy expects them, and join again those that were split by a mark."""
        return _any_of(self._all).sub(lambda found: self._names[found[0]], text).replace(MARK, "")

    @cached_property
    def _names(self) -> dict[str, str]:
        return {word: chr(FIRST_NAME + n) * len(word) for n, word in enumerate(sorted(self._all))}

    @cached_property
    def _renamed(self) -> tuple[Any, dict[int, int]]:
        """A copy of the tokenizer with renamed control tokens, and a map from its ids of them to the original ids."""
        from tokenizers import Tokenizer

        described = json.loads(self._tokenizer.backend_tokenizer.to_str())
        added = {token["content"] for token in described["added_tokens"]} | self._all
        for token in described["added_tokens"]:
            token["content"] = self._names.get(token["content"], token["content"])
        described |= {"truncation": None, "padding": None}
        copy = Tokenizer.from_str(json.dumps(described))
        known = self._tokenizer.get_vocab()
        # A renamed token may get a new id, and shift the ids after it.
        pairs = ((copy.token_to_id(self._names.get(word, word)), known.get(word)) for word in added)
        return copy, {there: here for there, here in pairs if there is not None and here is not None}


def unmarked_place(text: str, place: int) -> int:
    """Translate a position in a guarded text to the position after its marks are removed."""
    return place - text.count(MARK, 0, place)


def _as_it_is(encoding: Any) -> Tokens:
    return Tokens(encoding.ids, encoding)


def _any_of(words: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or r"(?!)")
