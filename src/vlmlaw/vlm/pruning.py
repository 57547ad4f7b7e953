"""Drop image tokens between the layers of an LLM, as a compressor of `compressors.inside_llm` chooses.

Only the tokens that stay pass the later layers, which saves time and memory, also of the key-value cache.
B sequences, S tokens of a sequence now, T of it at first, N image tokens in each, D width, H heads.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vlmlaw.compressors import Compressor, InsideLlm
from vlmlaw.compressors.selection import above_mean, take, text_relevance
from vlmlaw.errors import UserError
from vlmlaw.vlm.explanation import token_relevance


def asking_places(targets_BT: Tensor | None, mask: Tensor | None, shape: torch.Size, device: Any) -> Tensor:
    """Return (B,) the last token of each question: that before the first answer, or the last that is no padding.

    >>> mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    >>> asking_places(None, mask, mask.shape, "cpu").tolist()
    [3, 2]
    """
    n_rows, n_tokens = shape[:2]
    if targets_BT is not None:
        return (targets_BT >= 0).int().argmax(dim=1)
    if mask is not None and mask.ndim == 2:
        places_T = torch.arange(n_tokens, device=device)
        return (mask[:, -n_tokens:].bool() * places_T).argmax(dim=1)
    return torch.full((n_rows,), n_tokens - 1, device=device)


def batches_for(
    compressor: Compressor, rows: Sequence[int], n_images: Sequence[int], *, batch_size: int
) -> list[list[int]]:
    """Group rows into batches that the compressor can read; `n_images` is how many images each row shows.

    A compressor inside the LLM drops the same number of tokens from each sequence of a batch, so texts without an image
    come last, in batches of their own. Raises UserError if a row shows several images to such a compressor.

    >>> from vlmlaw.compressors import build_compressor
    >>> batches_for(build_compressor("average", 4, 8, 4), [0, 1, 2, 3], [1, 0, 2, 1], batch_size=3)
    [[0, 1, 2], [3]]
    >>> batches_for(build_compressor("fastv", 4, 8, 4), [0, 1, 2, 3], [1, 0, 1, 1], batch_size=2)
    [[0, 2], [3], [1]]
    """
    if not compressor.inside_llm:
        return [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    if max(n_images, default=0) > 1:
        raise UserError(
            f"compressor {compressor.name} keeps tokens of one image a question; found a question with "
            f"{max(n_images)}. Leave out questions with several images, or take a compressor that works before the LLM."
        )
    halves = [[row for row, n in zip(rows, n_images, strict=True) if bool(n) is shows] for shows in (True, False)]
    return [half[start : start + batch_size] for half in halves for start in range(0, len(half), batch_size)]


@dataclass
class Kept:
    """The tokens of a prompt that are left from layer `after` on; kept with the cache for the steps that generate."""

    after: int
    places_BS: Tensor  # indices into the prompt's T tokens, ascending
    n_prompt: int


def is_pruned(cache: Any) -> bool:
    """Return whether tokens were dropped from the prompt of this cache, so that later steps must follow that choice."""
    return getattr(cache, "vlmlaw_kept", None) is not None


# Torch numbers hooks by a counter that it reads and raises in two steps. Two threads at once could get the same number,
# and the later hook would replace the earlier one.
_REGISTERING = threading.Lock()


@contextmanager
def pruned(
    llm: Any, compressor: InsideLlm, *, is_image_BT: Tensor, asking_B: Tensor, cache: Any = None
) -> Iterator[None]:
    """Within this block, passes of the LLM drop image tokens between layers as the compressor's stages say.

    `asking_B` is the last token of each question. The choice is kept with the `cache`, for the steps that generate. A
    first pass needs eager attention, which returns its weights. The LLM's output has all T places again; those of
    dropped tokens hold no meaning. Passes of other threads are not affected.
    Raises UserError for an LLM that is not of the Llama or Qwen kind, or too shallow; ValueError unless each sequence
    shows one image.
    """
    layers: Any = _layers(llm, compressor.name)
    stages = compressor.stages(len(layers))
    if is_pruned(cache):
        work: Any = _LaterSteps(llm, cache.vlmlaw_kept, renumbers=compressor.renumbers)
        with _REGISTERING:
            hooks = [
                layer.register_forward_pre_hook(work.before, with_kwargs=True) for layer in layers[stages[0].after :]
            ]
    else:
        work = _FirstPass(llm, compressor, is_image_BT, asking_B, cache)
        with _REGISTERING:
            hooks = [layer.register_forward_pre_hook(work.before, with_kwargs=True) for layer in layers]
            hooks += [layers[stage.after - 1].self_attn.register_forward_hook(work.read) for stage in stages]
            hooks.append(layers[-1].register_forward_hook(work.restore))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(llm: Any, name: str) -> nn.ModuleList:
    layers = getattr(llm.base_model, "layers", None)
    if layers is None or not hasattr(layers[0], "self_attn"):
        raise UserError(
            f"compressor {name}: the LLM {type(llm).__name__} has no `layers` with `self_attn`; take a decoder of the "
            "Llama or Qwen kind, or a compressor that works before the LLM."
        )
    return layers


def _renumbered(llm: Any, states_BSD: Tensor, positions: Tensor) -> dict[str, Any]:
    """Return a layer's arguments for these positions: the positions and their rotary embeddings."""
    return {"position_ids": positions, "position_embeddings": llm.base_model.rotary_emb(states_BSD, positions)}


class _LaterSteps:
    """Hooks for a step that generates: layers read the keys of their stage's tokens, and of those generated since."""

    def __init__(self, llm: Any, kept: list[Kept], *, renumbers: bool) -> None:
        self.llm, self.kept, self.renumbers = llm, kept, renumbers
        self.thread = threading.get_ident()  # hooks are called by all that pass through the layer
        self.number = {id(layer): i for i, layer in enumerate(llm.base_model.layers)}

    def before(self, layer: Any, inputs: tuple[Any, ...], given: dict[str, Any] | None = None) -> Any:
        # Torch looks up whether a hook wants `given` after it listed the hooks: one that another thread has just
        # removed is called without.
        if given is None or threading.get_ident() != self.thread:
            return None
        kept = [stage for stage in self.kept if stage.after <= self.number[id(layer)]][-1]
        changed: dict[str, Any] = {}
        mask = given.get("attention_mask")
        if isinstance(mask, Tensor):
            since_S = torch.arange(kept.n_prompt, mask.shape[-1], device=mask.device)
            columns_BS = torch.cat([kept.places_BS, since_S.expand(len(kept.places_BS), -1)], dim=1)
            shape = (len(columns_BS), *[1] * (mask.ndim - 2), columns_BS.shape[1])
            changed["attention_mask"] = mask.expand(len(columns_BS), *mask.shape[1:]).take_along_dim(
                columns_BS.view(shape), dim=-1
            )
        if self.renumbers:
            positions = given["position_ids"] - (kept.n_prompt - kept.places_BS.shape[1])
            changed |= _renumbered(self.llm, inputs[0], positions)
        return inputs, given | changed


class _FirstPass:
    """Hooks for the pass over the prompt: at each stage tokens are chosen, and later layers read only those."""

    def __init__(self, llm: Any, compressor: InsideLlm, is_image_BT: Tensor, asking_B: Tensor, cache: Any) -> None:
        n_image_B = is_image_BT.sum(dim=1)
        if not (n_image_B == compressor.n_patches).all():
            raise ValueError(
                f"compressor {compressor.name} drops tokens of one image in each sequence, of {compressor.n_patches}; "
                f"found sequences with {sorted(set(n_image_B.tolist()))} image tokens in one batch. Give texts without "
                "an image in batches of their own (`batches_for`), and one image a text."
            )
        self.llm, self.compressor, self.cache = llm, compressor, cache
        self.thread = threading.get_ident()
        self.number = {id(layer): i for i, layer in enumerate(llm.base_model.layers)}
        self.due = dict(compressor.stages(len(self.number)))
        self.shape = is_image_BT.shape
        self.kept: list[Kept] = []
        places_BT = torch.arange(self.shape[1], device=is_image_BT.device).expand(self.shape)
        self.reading = _Reading(llm, is_image_BT, asking_B, places_BT)

    def read(self, attention: Any, _inputs: Any, output: Any) -> None:
        """Keep the attention weights of a layer that a stage follows."""
        if threading.get_ident() == self.thread and not self.reading.is_rating:
            self.reading.weights_BHSS = output[1]

    def before(self, layer: Any, inputs: tuple[Any, ...], given: dict[str, Any] | None = None) -> Any:
        # Torch looks up whether a hook wants `given` after it listed the hooks: one that another thread has just
        # removed is called without.
        if given is None or threading.get_ident() != self.thread or self.reading.is_rating:
            return None
        states_BSD, number, reading = inputs[0], self.number[id(layer)], self.reading
        if number == 0:
            reading.enter(states_BSD, given)
        given = given | self._left(states_BSD)
        if number in self.due:
            reading.stand_before(layer, states_BSD, given, self.cache, number)
            chosen_BV = self.compressor.choose(reading, self.due[number]).sort(dim=1).values
            rows_BS = reading.left(chosen_BV)
            reading.take(rows_BS)
            states_BSD = take(states_BSD, rows_BS)
            self.kept.append(Kept(number, reading.places_BS, self.shape[1]))
            if self.cache is not None:
                self.cache.vlmlaw_kept = self.kept
            given = given | self._left(states_BSD)
        reading.last = (layer, states_BSD, given)
        return (states_BSD, *inputs[1:]), given

    def _left(self, states_BSD: Tensor) -> dict[str, Any]:
        """Return mask, positions and rotary embeddings of the tokens left, taken from those of the whole prompt."""
        if not self.kept:
            return {}
        places_BS = self.reading.places_BS
        whole = self.reading.given
        mask, positions = whole["attention_mask"], whole["position_ids"].expand(self.shape)
        changed: dict[str, Any] = {}
        if isinstance(mask, Tensor):
            mask = mask.expand(len(places_BS), *mask.shape[1:])
            mask = mask.take_along_dim(places_BS[:, None, :, None], dim=2)
            changed["attention_mask"] = mask.take_along_dim(places_BS[:, None, None, :], dim=3)
        positions = positions.gather(1, places_BS)
        if self.compressor.renumbers:
            positions = positions - (places_BS - torch.arange(places_BS.shape[1], device=places_BS.device))
        return changed | _renumbered(self.llm, states_BSD, positions)

    def restore(self, _layer: Any, _inputs: Any, output: Any) -> Any:
        """Return the states in all T places again, with zeros where a token was dropped."""
        if threading.get_ident() != self.thread or self.reading.is_rating or not self.kept:
            return None
        states_BSD = output[0] if isinstance(output, tuple) else output
        whole_BTD = states_BSD.new_zeros(*self.shape, states_BSD.shape[2])
        whole_BTD = whole_BTD.scatter(1, self.reading.places_BS.unsqueeze(2).expand_as(states_BSD), states_BSD)
        return (whole_BTD, *output[1:]) if isinstance(output, tuple) else whole_BTD


@dataclass
class _Reading:
    """What a compressor may read between two layers (see `compressors.inside_llm.Reading`)."""

    llm: Any
    is_image_BS: Tensor
    asking_B: Tensor
    places_BS: Tensor  # places in the prompt of the tokens left
    given: dict[str, Any] = field(default_factory=dict)  # the arguments of a layer that reads the whole prompt
    embeds_BTD: Tensor | None = None
    weights_BHSS: Tensor | None = None
    last: Any = None  # the last layer that ran, its input and its arguments
    coming: Any = None  # the same of the next layer
    keys_BHSE: Tensor | None = None
    is_rating: bool = False  # a pass of its own runs through the layers; hooks leave it alone

    def enter(self, embeds_BTD: Tensor, given: dict[str, Any]) -> None:
        self.embeds_BTD, self.given = embeds_BTD, {key: given.get(key) for key in ("attention_mask", "position_ids")}
        self.whole, self.whole_given = (self.is_image_BS, self.text_BS), given

    def stand_before(self, layer: Any, states_BSD: Tensor, given: dict[str, Any], cache: Any, number: int) -> None:
        self.coming = (layer, states_BSD, given)
        read: Any = cache.layers[number - 1] if isinstance(cache, DynamicCache) else None
        self.keys_BHSE = getattr(read, "keys", None)

    def left(self, chosen_BV: Tensor) -> Tensor:
        """Return (B, S') the present indices of the tokens that stay: all but the image tokens that were not chosen."""
        stays_BS = ~self.is_image_BS
        stays_BS = stays_BS.scatter(1, self.image_BN.gather(1, chosen_BV), value=True)
        n_left = self.is_image_BS.shape[1] - self.image_BN.shape[1] + chosen_BV.shape[1]
        return stays_BS.nonzero()[:, 1].view(len(stays_BS), n_left)

    def take(self, rows_BS: Tensor) -> None:
        self.asking_B = (rows_BS < self.asking_B.unsqueeze(1)).sum(dim=1)
        self.is_image_BS, self.places_BS = self.is_image_BS.gather(1, rows_BS), self.places_BS.gather(1, rows_BS)

    @property
    def image_BN(self) -> Tensor:
        return self.is_image_BS.nonzero()[:, 1].view(len(self.is_image_BS), -1)

    @property
    def first_B(self) -> Tensor:
        mask = self.coming[2].get("attention_mask")
        if not isinstance(mask, Tensor):
            return torch.zeros_like(self.asking_B)
        rows = torch.arange(len(self.asking_B), device=mask.device)
        seen_BS = mask.expand(len(rows), *mask.shape[1:])[rows, 0, self.asking_B]
        return (seen_BS if seen_BS.dtype == torch.bool else seen_BS == 0).int().argmax(dim=1)

    @property
    def text_BS(self) -> Tensor:
        """True from behind the image to the last token of the question."""
        places_S = torch.arange(self.is_image_BS.shape[1], device=self.is_image_BS.device)
        last_B1 = (self.is_image_BS * places_S).amax(dim=1, keepdim=True)
        return (places_S > last_B1) & (places_S <= self.asking_B.unsqueeze(1))

    def attention(self) -> Tensor:
        return self._weights().mean(dim=1)[torch.arange(len(self.asking_B)), self.asking_B].gather(1, self.image_BN)

    def rated_attention(self) -> Tensor:
        assert self.embeds_BTD is not None
        is_image_BT, text_BT = self.whole
        n_image = int(is_image_BT[0].sum())
        patches_BPD = take(self.embeds_BTD, is_image_BT.nonzero()[:, 1].view(-1, n_image)).float()
        relevance_BT = text_relevance(self.embeds_BTD.float() @ patches_BPD.transpose(1, 2), text_BT)
        raters_BS = above_mean(relevance_BT, text_BT).gather(1, self.places_BS)
        rated_BSS = self._weights().mean(dim=1)
        shares_BS = (rated_BSS * raters_BS.unsqueeze(2)).sum(dim=1) / raters_BS.sum(dim=1, keepdim=True)
        return shares_BS.gather(1, self.image_BN)

    def next_attention(self) -> Tensor:
        layer, states_BSD, given = self.coming
        scores_BHS = _asking_scores(layer, states_BSD, given, self.asking_B)
        mask = given.get("attention_mask")
        if isinstance(mask, Tensor):
            rows = torch.arange(len(self.asking_B), device=mask.device)
            scores_BHS = scores_BHS + mask.expand(len(rows), *mask.shape[1:])[rows, :, self.asking_B]
        return scores_BHS.softmax(dim=2).mean(dim=1).gather(1, self.image_BN)

    def scores(self) -> Tensor:
        layer, states_BSD, given = self.last
        scores_BS = _asking_scores(layer, states_BSD, given, self.asking_B).mean(dim=1)
        places_S = torch.arange(scores_BS.shape[1], device=scores_BS.device)
        # Padding before the prompt is 0, too, as neighbours are averaged with it: a prompt alone has no padding.
        own_BS = (places_S >= self.first_B.unsqueeze(1)) & (places_S < self.asking_B.unsqueeze(1))
        return scores_BS * own_BS

    def relevance(self) -> Tensor:
        assert self.embeds_BTD is not None
        self.is_rating = True
        try:
            relevance_BT = token_relevance(self.llm, self.embeds_BTD, self.whole_given, asking_B=self.asking_B)
        finally:
            self.is_rating = False
        return relevance_BT.gather(1, self.image_BN)

    def states(self) -> Tensor:
        return self.llm.base_model.norm(self.coming[1])

    def keys(self) -> Tensor:
        if self.keys_BHSE is None:
            raise ValueError("found no key-value cache whose keys could be read; call the model with use_cache=True")
        return self.keys_BHSE.transpose(1, 2).flatten(2)

    def _weights(self) -> Tensor:
        if self.weights_BHSS is None:
            raise ValueError("found no attention weights; load the LLM with attn_implementation='eager'")
        return self.weights_BHSS


def _asking_scores(layer: Any, states_BSD: Tensor, given: dict[str, Any], asking_B: Tensor) -> Tensor:
    """Return (B, H, S) scaled products of the last question token's query with all keys of a layer, rotated as in it.

    Raises UserError for a layer whose attention is not built as Llama's and Qwen's.
    """
    attention = layer.self_attn
    turn = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    parts = ("q_proj", "k_proj", "head_dim")
    if turn is None or not all(hasattr(attention, part) for part in parts) or not hasattr(layer, "input_layernorm"):
        raise UserError(
            f"found {type(attention).__name__}, expected attention with {', '.join(parts)} and rotary places, as in "
            "Llama and Qwen; take FastV, which reads the weights that a layer shows."
        )
    normed_BSD = layer.input_layernorm(states_BSD)
    q, k = (
        getattr(attention, norm, nn.Identity())(projection(normed_BSD).unflatten(-1, (-1, attention.head_dim)))
        for norm, projection in (("q_norm", attention.q_proj), ("k_norm", attention.k_proj))
    )
    q_BHSE, k_BHSE = turn(q.transpose(1, 2), k.transpose(1, 2), *given["position_embeddings"])
    k_BHSE = k_BHSE.repeat_interleave(q_BHSE.shape[1] // k_BHSE.shape[1], dim=1)
    asking_BH1E = q_BHSE[torch.arange(len(asking_B), device=asking_B.device), :, asking_B].unsqueeze(2)
    return (asking_BH1E @ k_BHSE.transpose(2, 3)).squeeze(2).float() / math.sqrt(attention.head_dim)
