"""A released model whose image features a training-free compressor makes fewer before its language model reads them.

`get_image_features` of transformers' class gives what tower and connector make of the images. Each view's features
become its share of V by a compressor (feature_compressor.py), as many placeholders stay in the prompt, and the model's
own forward does the rest (`mm_encoder_outputs`). Of a compressor that merges patches, the model's own connector makes
the features. Positions are those of the prompt that is left. In a family whose image tokens have positions on a grid
(M-RoPE), features that stay keep theirs, and what follows is where it was.

Shapes: N image tokens of the prompt, V of them that are left, T tokens of the prompt, D width, B = 1.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.checkpoint import Checkpoint
from vlmlaw.evaluation.backends.feature_compressor import FeatureCompressor, shares
from vlmlaw.evaluation.backends.interface import Budget, Reply, Unanswered, budget_text
from vlmlaw.evaluation.backends.patch_attention import attended, has_class_token
from vlmlaw.runtime.fingerprint import code_version

AS_OWN = 0.01  # of the logits' spread: a longer way to the same numbers may differ by rounding, and no more

ATTENDED = ("llava", "paligemma")  # families of which the tower's attention to the patches is read

MARKED = (
    "has marks within an image, between which only features that stay as they are have a place, as by divprune or "
    "random_at_inference"
)


class Compressed:
    """A checkpoint with a compressor by name; it shares the weights. No image, and all tokens, are the model's own."""

    def __init__(self, own: Checkpoint, compressor: str):
        self._compressor = FeatureCompressor(compressor)
        self._own = own
        own.n_users += 1
        self.compressor = compressor
        self.name, self.family, self.n_params = f"{own.name}+{compressor}", own.family, own.n_params
        self._is_verified = False

    @cached_property
    def identity(self) -> str:
        """The checkpoint's, and the compressor with its code."""
        return f"{self._own.identity} {self.compressor} {code_version('vlmlaw.compressors', __name__)}"

    def check(self, budgets: Sequence[Budget]) -> None:
        """Raise UserError where the model has no such features, or cannot have so many tokens left."""
        if why := self._unfit():
            raise UserError(f"{self.name} ({self.family}) cannot be asked: {why}.")
        most = self._own.rule.most if self._own.rule else None
        for budget in budgets:
            if budget is not None and most is not None and budget > most:
                raise UserError(
                    f"{self.name} ({self.family}) cannot be asked at V = {budget_text(budget)}: by itself the model "
                    f"makes at most {most} visual tokens of an image."
                )

    def _unfit(self) -> str:
        kind, rule = self._own.kind, self._own.rule
        if not hasattr(kind, "get_image_features"):
            return "its class in transformers has no get_image_features"
        if "mm_encoder_outputs" not in inspect.signature(kind.forward).parameters:
            return "its class in transformers does not take image features (`mm_encoder_outputs`) in this release"
        if has_grid_positions(kind) and not self._compressor.is_selection:
            return (
                "its image tokens have positions on the image's grid (M-RoPE), which only features that stay as they "
                "are keep, as by divprune or random_at_inference"
            )
        if rule and rule.marks_rows and not self._compressor.is_selection:
            return f"its prompt {MARKED}"
        if self._compressor.needs_tower and (why := self._unfit_tower()):
            return why
        if self._compressor.needs_square and not (rule and rule.square_views):
            return f"{self.compressor} wants square grids of features, which this family's are not"
        return ""

    def _unfit_tower(self) -> str:
        """Why this compressor cannot read the tower's patches and attention; "" where it can."""
        config, rule = self._own.config, self._own.rule
        does = "merges patches before the connector" if self._compressor.is_before_connector else "chooses patches"
        if not (rule and rule.tokens_are_patches and self.family in ATTENDED):
            return (
                f"{self.compressor} {does} by the attention of the vision tower to each, which is had of "
                f"{', '.join(ATTENDED)}, whose image is one view and whose connector makes a token of each patch alone"
            )
        if not isinstance(getattr(config, "vision_feature_layer", -1), int):
            return f"{self.compressor} {does} by one layer of the vision tower, and its connector reads several"
        if self._compressor.needs_class_token and not has_class_token(config.vision_config):
            return f"{self.compressor} {does} by the attention of the tower's class token, and its tower has none"
        return ""

    def ask(self, text: str, images: Sequence[np.ndarray], *, budget: Budget, max_new_tokens: int) -> Reply:
        """The reply, decoded greedily; V is what the prompt holds. See `Backend.ask`."""
        if budget is None or budget == 0:
            return self._own.ask(text, images, budget=budget, max_new_tokens=max_new_tokens)
        sizes = [image.shape[:2] for image in images]

        def reduce(model: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            if not self._is_verified:
                self.require_own_logits(model, inputs, sizes=sizes)
            try:
                return self.reduced(model, inputs, sizes=sizes, budget=budget, text=text)
            except ValueError as error:
                raise Unanswered(f"{error}; ask for at least as many") from error

        return self._own.ask(text, images, budget=None, max_new_tokens=max_new_tokens, reduce=reduce)

    def close(self) -> None:
        """Free the weights, where nobody else needs them."""
        self._own.close()

    def reduced(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        *,
        sizes: Sequence[tuple[int, int]],
        budget: Budget,
        text: str = "",
    ) -> dict[str, Any]:
        """What the model reads in place of `inputs`: fewer image tokens, and features for them.

        sizes: height and width of each image. budget: V of each; None keeps all. text: the question, for compressors
        that read it. Raises ValueError for fewer tokens than an image has views.
        """
        used = set(inspect.signature(model.base_model.get_image_features).parameters) & {*inputs}
        way = self._compressor
        with attended(model.base_model, on=way.needs_tower, last_layer=way.reads_last_layer) as tower:
            seen = model.base_model.get_image_features(**{name: inputs[name] for name in used}, return_dict=True)
        question_TD = self._question(model, text) if way.needs_question else None
        features_ND = flat(seen.pooler_output)
        is_image_T = inputs["input_ids"][0] == self._own.image_token_id
        place_N = is_image_T.nonzero().squeeze(1)
        if len(place_N) != len(features_ND):
            raise UserError(
                f"{self.name}: the model makes {len(features_ND)} features where its prompt has {len(place_N)} image "
                "tokens; ask it without a compressor."
            )
        tokens, kept = [], []
        for start, n, share in self._parts(place_N, sizes, budget):
            beside = replace(tower.of(start, n), question_TD=question_TD)
            own_VD, index_V = way(features_ND[start : start + n], share, beside)
            at_V = torch.arange(len(own_VD), device=place_N.device) if index_V is None else index_V
            tokens.append(own_VD)
            kept.append(start + at_V)
        kept_V, stays_T = torch.cat(kept), ~is_image_T
        stays_T[place_N[kept_V]] = True
        left = {name: inputs[name] for name in inputs if name not in used}
        shape = inputs["input_ids"].shape
        left |= {name: x[:, stays_T] for name, x in left.items() if x.shape == shape}
        left |= _grid_positions(model.base_model, inputs, stays_T)
        return left | {"mm_encoder_outputs": {"image": _like(seen, torch.cat(tokens), kept_V)}}

    def _question(self, model: Any, text: str) -> Tensor:
        """(T, D) what the language model's embedding has for the tokens of a text."""
        ids = torch.tensor(self._own.token_ids(text), dtype=torch.long, device=model.device)
        embedded_TD: Tensor = model.get_input_embeddings()(ids)
        return embedded_TD

    def _parts(self, place_N: Tensor, sizes: Sequence[tuple[int, int]], budget: Budget) -> list[tuple[int, int, int]]:
        """Of each view where its features begin, how many there are, and how many tokens it may have."""
        found, start = [], 0
        for runs in self._runs(place_N, sizes):
            for n, share in zip(runs, shares(runs, sum(runs) if budget is None else budget), strict=True):
                if self._compressor.needs_square and math.isqrt(n) ** 2 != n:
                    raise UserError(f"{self.name}: {self.compressor} wants square grids; a view has {n} features.")
                is_joined = int(place_N[start + n - 1] - place_N[start]) == n - 1
                if not is_joined and not self._compressor.is_selection:
                    raise UserError(f"{self.name} ({self.family}): its prompt {MARKED}.")
                found.append((start, n, share))
                start += n
        return found

    def _runs(self, place_N: Tensor, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Of each image the features of its views."""
        rule, n = self._own.rule, len(place_N)
        if rule is not None:
            found = rule.runs(sizes)
        elif len(sizes) == 1:  # what stands together in the prompt is a view
            ends = [*(place_N.diff() != 1).nonzero().squeeze(1).tolist(), n - 1]
            found = [tuple(end - start for start, end in zip([-1, *ends], ends, strict=False))]
        else:
            raise UserError(
                f"{self.name}: the table of families has not {self.family}, and which features are which image's is "
                "not known; ask it about one image at a time."
            )
        if sum(map(sum, found)) != n:
            raise UserError(
                f"{self.name}: its processor made {n} visual tokens of {len(sizes)} images where its family's rule "
                f"promises {sum(map(sum, found))}; ask it without a compressor."
            )
        return found

    def require_own_logits(self, model: Any, inputs: Mapping[str, Any], *, sizes: Sequence[tuple[int, int]]) -> None:
        """Compare the model's own forward with the way that compressed features go, with all of them kept.

        Raises UserError where logits differ by more than rounding.
        """
        takes = inspect.signature(model.forward).parameters
        last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        inputs = {name: value for name, value in inputs.items() if name != "labels"}  # PaliGemma's processor has some
        whole = self.reduced(model, inputs, sizes=sizes, budget=None)
        own, ours = (model(**read, **last, use_cache=False).logits[0, -1].float() for read in (inputs, whole))
        if (own - ours).abs().max() > AS_OWN * (own.max() - own.min()):
            raise UserError(
                f"{self.name} ({self.family}): with all features kept the model's replies are not its own, so that "
                "compressed ones would say nothing of the compressor; ask it without one."
            )
        self._is_verified = True


def flat(features: Any) -> Tensor:
    """(N, D) features, of however a family groups them: a tensor, or one for each image or view.

    >>> flat([torch.zeros(4, 8), torch.zeros(2, 8)]).shape, flat(torch.zeros(3, 4, 8)).shape
    (torch.Size([6, 8]), torch.Size([12, 8]))
    """
    parts = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.flatten(0, -2) for part in parts])


def _like(seen: Any, tokens_VD: Tensor, kept_V: Tensor) -> Any:
    """The tower's output with these features, grouped as one image's; what deeper layers read goes with them."""
    own, deep = seen.pooler_output, getattr(seen, "deepstack_features", None)
    if isinstance(own, Tensor):
        grouped: Any = tokens_VD if own.ndim == 2 else tokens_VD.unsqueeze(0)
    else:
        grouped = [tokens_VD]
    deeper = {} if deep is None else {"deepstack_features": [[flat(layer)[kept_V]] for layer in deep]}
    return type(seen)(pooler_output=grouped, **deeper)


def _grid_positions(base: Any, inputs: Mapping[str, Any], stays_T: Tensor) -> dict[str, Tensor]:
    """Positions of the tokens that stay, in a family whose image tokens have some on a grid; else none.

    As its `generate` makes them: the place in the text, then time, row and column.
    """
    if not hasattr(base, "get_rope_index"):
        return {}
    takes = inspect.signature(base.get_rope_index).parameters
    positions_3BT, _ = base.get_rope_index(**{name: x for name, x in inputs.items() if name in takes})
    left_3BT = positions_3BT[:, :, stays_T]
    in_text = torch.arange(left_3BT.shape[2], device=left_3BT.device).expand(1, 1, -1)
    return {"position_ids": torch.cat([in_text, left_3BT])}


def has_grid_positions(kind: type) -> bool:
    """Whether a class gives image tokens positions on a grid, as Qwen2-VL and its followers do."""
    import sys

    module = sys.modules[kind.__module__]
    return any(hasattr(found, "get_rope_index") for found in vars(module).values() if isinstance(found, type))
