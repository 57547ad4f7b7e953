"""Generate a VLM's greedy replies to many prompts: batched, padded on the left, with a key-value cache.

The loop is our own, because `generate` would apply the settings of a checkpoint's generation_config.json (Qwen's asks
for sampling and a repetition penalty). A prompt's reply is the same in any batch in float32, where padding changes only
the last bits of the logits, unless two tokens are equally likely to within those bits.
B prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.tokens.chat_template import Chat
from vlmlaw.tokens.packing import padded_questions
from vlmlaw.tokens.prompt import ChatTokenizer, plain_chat
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.pruning import batches_for
from vlmlaw.vlm.readable import room_for_replies

if TYPE_CHECKING:
    from vlmlaw.vlm.model import VlmForConditionalGeneration

# from the images that prompts name to the inputs that the tower makes of them
PatchesOf = Callable[[Sequence[Any]], ImageInputs]


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it replies; `images` are the keys by which `patches_of` finds them."""

    ids: tuple[int, ...]  # V tokens for each image included
    n_text_tokens: int  # without them
    images: tuple[Hashable, ...] = ()
    questions: tuple[tuple[int, ...], ...] = ()  # the question about each image (see vlmlaw.tokens.prompt)


class Prompter:
    """Turns messages, or what a user says, into prompts, through the tokenizer's chat template.

    >>> from vlmlaw.data.miniature.write import build_tokenizer
    >>> words = build_tokenizer()
    >>> image = words.convert_tokens_to_ids("<image>")
    >>> prompter = Prompter(words, n_visual_tokens=4, image_token_id=image)
    >>> prompt = prompter("shape red", "picture.png")
    >>> prompt.ids.count(image), words.decode(prompt.questions[0]), prompt.images
    (4, 'shape red', ('picture.png',))
    """

    def __init__(self, tokenizer: Any, *, n_visual_tokens: int, image_token_id: int):
        self._tokenizer, self._read = tokenizer, ChatTokenizer(tokenizer)
        self._n_visual_tokens, self._image_token_id = n_visual_tokens, image_token_id

    def __call__(self, said: str, *images: Hashable) -> Prompt:
        """Return the prompt of one question; images stand before it, or where it has `<image>` for each of several.

        Raises UserError if the template loses an image's place.
        """
        if len(images) > 1 and said.count(IMAGE_PLACEHOLDER) == len(images):
            return self._prompt((("user", said),), images)
        parts = [{"type": "image", "image": image} for image in images]
        words = {"type": "text", "text": said.replace(IMAGE_PLACEHOLDER, "").strip()}
        return self.of_messages([{"role": "user", "content": [*parts, words]}])

    def of_messages(self, messages: Sequence[Mapping[str, Any]]) -> Prompt:
        """Return the prompt of messages in transformers' format. Raises UserError if an image's place is lost."""
        chat, images = plain_chat(messages)
        return self._prompt(chat, images)

    def _prompt(self, chat: Chat, images: Sequence[Hashable]) -> Prompt:
        (read,) = self._read.prompts([chat])
        n_places = read.ids.count(self._image_token_id)
        if n_places != len(images):
            raise UserError(
                f"the prompt {chat[-1][1][:80]!r} has {n_places} tokens {IMAGE_PLACEHOLDER}, expected {len(images)}; "
                "the tokenizer must know that token, and the chat template keep it."
            )
        ids = spread(read.ids, self._image_token_id, n_visual_tokens=self._n_visual_tokens)
        return Prompt(tuple(ids), len(read.ids) - n_places, tuple(images), tuple(map(tuple, read.questions)))

    def stop_ids(self) -> list[int]:
        """Return the tokens that end a reply: the tokenizer's end of text, and the template's end of an answer."""
        ends = {self._read.end_of_answer(), self._tokenizer.eos_token_id}
        known = sorted(token for token in ends if token is not None)
        if not known:
            raise UserError("no token ends a reply: the tokenizer has no eos_token, and its template puts none behind.")
        return known


@torch.no_grad()
def replies(
    model: VlmForConditionalGeneration,
    prompts: Sequence[Prompt],
    *,
    patches_of: PatchesOf,
    stop_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
    max_new_tokens: int,
    n_visual_tokens: int | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Yield (index of a prompt, tokens of its reply without the one that ends it), in any order.

    Prompts that share an image are read one after another, so that a batch encodes it once. An elastic model works at
    V = `n_visual_tokens`, for which the prompts must be made; None: at that of its configuration. A reply ends at the
    language model's last position at the latest. Raises UserError, before the first reply, for a longer prompt.
    """
    sizes = [(prompt.n_text_tokens, len(prompt.images)) for prompt in prompts]
    rooms = [min(n, max_new_tokens) for n in room_for_replies(model, sizes, n_visual_tokens=n_visual_tokens)]
    first_use: dict[tuple[Hashable, ...], int] = {}
    for index, prompt in enumerate(prompts):
        first_use.setdefault(prompt.images, index)
    order = sorted(range(len(prompts)), key=lambda index: (first_use[prompts[index].images], index))

    def batches_of(rows: Sequence[int], size: int) -> list[list[int]]:
        return batches_for(model.compressor, rows, [len(prompts[row].images) for row in rows], batch_size=size)

    batches = batches_of(order, batch_size)
    while batches:
        chosen = batches[0]
        try:
            given = prompt_tensors(model, [prompts[i] for i in chosen], patches_of=patches_of, pad_id=pad_id)
            given["n_visual_tokens"] = n_visual_tokens
            most = [rooms[i] for i in chosen]
            said_BT = _greedy(model, given, stop_ids=stop_ids, pad_id=pad_id, most=most).tolist()
        except torch.OutOfMemoryError:
            if len(chosen) == 1:
                raise
            # Smaller batches give the same replies.
            batches = batches_of([row for batch in batches for row in batch], len(chosen) // 2)
            continue
        del batches[0]
        for index, row in zip(chosen, said_BT, strict=True):
            row = row[: rooms[index]]
            end = next((place for place, token in enumerate(row) if token in stop_ids), len(row))
            yield index, row[:end]


def prompt_tensors(
    model: VlmForConditionalGeneration, batch: Sequence[Prompt], *, patches_of: PatchesOf, pad_id: int
) -> dict[str, Any]:
    """Return the prompts as arguments of the model's forward, padded on the left."""
    input_ids, mask = _padded([prompt.ids for prompt in batch], pad_id)
    positions, images = (mask.cumsum(-1) - 1).clamp(min=0), ImageInputs()
    shown = [(image, prompt) for prompt in batch for image in prompt.images]
    if shown:
        different = list(dict.fromkeys(image for image, _ in shown))
        row_of = {image: row for row, image in enumerate(different)}
        images = patches_of(different).rows([row_of[image] for image, _ in shown])
        if model.compressor.needs_question:
            asked, mask_of_asked = padded_questions([asked for prompt in batch for asked in prompt.questions], pad_id)
            question = map(torch.from_numpy, (asked, mask_of_asked))
            images = images.joined(ImageInputs(question_ids=next(question), question_mask=next(question)))
    given = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(model.device) for name, tensor in given.items()} | {"images": images.to(model.device)}


def _greedy(
    model: VlmForConditionalGeneration,
    given: dict[str, Any],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    most: Sequence[int],
) -> Tensor:
    """Return the most likely tokens said_BT, at most `most` of each row, with padding behind the one that stops it."""
    stops, most_B = torch.tensor(stop_ids, device=model.device), torch.tensor(most, device=model.device)
    mask, position = given["attention_mask"], given["position_ids"][:, -1:]
    out = model(**given, use_cache=True, logits_to_keep=1)
    said: list[Tensor] = []
    done = torch.zeros(len(mask), dtype=torch.bool, device=model.device)
    while True:
        token = torch.where(done, pad_id, out.logits[:, -1].argmax(-1))
        said.append(token)
        done = done | torch.isin(token, stops)
        done = done | (most_B <= len(said))
        if len(said) == max(most) or bool(done.all()):
            return torch.stack(said, dim=1)
        mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), position + 1
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=out.past_key_values,
            use_cache=True,
            logits_to_keep=1,
            n_visual_tokens=given["n_visual_tokens"],
        )


def spread(ids: Sequence[int], image_token_id: int, *, n_visual_tokens: int) -> list[int]:
    """Repeat each image's token V times.

    >>> spread([5, 1, 6], 1, n_visual_tokens=3)
    [5, 1, 1, 1, 6]
    """
    return [one for token in ids for one in [token] * (n_visual_tokens if token == image_token_id else 1)]


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return ids (B, T) padded on the left, and a mask that is 1 at ids."""
    n_tokens = max(map(len, rows))
    ids, mask = np.full((len(rows), n_tokens), pad_id), np.zeros((len(rows), n_tokens), dtype=np.int64)
    for row, own in enumerate(rows):
        place = slice(n_tokens - len(own), None)
        ids[row, place], mask[row, place] = own, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
