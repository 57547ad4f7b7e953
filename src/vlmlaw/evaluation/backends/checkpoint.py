"""A released checkpoint, asked through transformers: AutoModelForImageTextToText with its own processor and prompt.

V is set by the processor's own knob (released_families.py) and counted in the prompt that the model reads. Decoding is
greedy; what the release's generation_config.json says of sampling and of penalties is left out.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import Budget, Reply, Unanswered, budget_text
from vlmlaw.evaluation.backends.release_cost import bare_model, image_token_id, language_parameters
from vlmlaw.evaluation.backends.release_files import Source, digest_of, load_processor, load_weights, require_shards
from vlmlaw.evaluation.backends.released_families import read_release, rule_of
from vlmlaw.evaluation.backends.token_rules import Setting

DTYPES = ("auto", "float32", "bfloat16", "float16")
Reduce = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]  # model and what it would read, to what it reads


class Checkpoint:
    """A released model in this process. One question at a time, on a GPU where there is one.

    Its weights are loaded when they are first needed, and freed by `close`, after which they are loaded again. Back
    ends that share them (see compressed.py) count as `n_users`; the last one's `close` frees them.
    """

    def __init__(self, source: str, *, dtype: str = "auto"):
        if dtype not in DTYPES:
            raise UserError(f"--dtype: found {dtype!r}; expected one of {', '.join(DTYPES)}.")
        origin = Source.of_text(source)
        self._folder, self._commit = origin.fetch()
        release = read_release(self._folder)
        require_shards(self._folder)
        self.name, self.family = origin.name, str(release.config.get("model_type", ""))
        self.rule = rule_of(release)
        self._processor = load_processor(self._folder)
        bare = bare_model(self._folder)
        self.kind, self.config = type(bare), bare.config
        self.n_params = float(language_parameters(bare))
        self.image_token_id = image_token_id(bare.config)
        released = bare.config.dtype
        self._dtype, self._dtype_text = dtype, str(released) if dtype == "auto" and released else f"torch.{dtype}"
        self._own = {name: getattr(self._processor.image_processor, name, None) for name in ("image_grid_pinpoints",)}
        self._one_at_a_time = threading.Lock()
        self.n_users = 1
        self._loaded: Any = None

    @property
    def model(self) -> Any:
        """The weights, loaded where they are not."""
        if self._loaded is None:
            self._loaded = load_weights(self._folder, self._dtype)
        return self._loaded

    @cached_property
    def identity(self) -> str:
        """The name, the commit or a hash of the files, and the arithmetic's type."""
        dtype = str(self.model.dtype) if self._dtype_text == "torch.auto" else self._dtype_text
        return f"{self.name} {self._commit or digest_of(self._folder)} {dtype}"

    def check(self, budgets: Sequence[Budget]) -> None:
        """Raise UserError for a budget that the family cannot make, with those that it can."""
        for budget in budgets:
            why = "" if budget in (0, None) else self._problem(budget)
            if why:
                raise UserError(f"{self.name} ({self.family}) cannot be asked at V = {budget_text(budget)}: {why}.")

    def _problem(self, budget: int | None) -> str:
        if self.rule is None:
            return "the table of families has no knob for it; it can be asked at 0 (no image) and max"
        return self.rule.problem(budget)

    def ask(
        self,
        text: str,
        images: Sequence[np.ndarray],
        *,
        budget: Budget,
        max_new_tokens: int,
        reduce: Reduce | None = None,
    ) -> Reply:
        """The reply, decoded greedily; V is what the prompt holds. See `Backend.ask`.

        reduce: makes visual tokens fewer, of what the model would read; its time counts.
        """
        shown = [] if budget == 0 else [Image.fromarray(image) for image in images]
        with self._one_at_a_time:
            inputs = self._on_device(self.inputs(text, shown, budget=budget))
            start = time.perf_counter()
            read, ids, first = self._answer(inputs, max_new_tokens, reduce if shown else None)
            seconds = time.perf_counter() - start
        is_cut = len(ids) == max_new_tokens and ids[-1] not in self._stop_ids()
        return Reply(
            text=self.decoded(ids),
            seconds=seconds,
            first_token_seconds=None if first is None else first - start,
            n_prompt_tokens=int(read["input_ids"].shape[-1]),
            n_visual_tokens=self._count(read),
            n_generated_tokens=len(ids),
            finish="length" if is_cut else "stop",
            sizes=tuple((image.height, image.width) for image in shown),
        )

    def inputs(self, text: str, images: Sequence[Image.Image], *, budget: Budget) -> Mapping[str, Any]:
        """What the model reads, by its own processor and chat template, with at most `budget` tokens an image.

        Raises Unanswered for images that its processor cannot show at this budget.
        """
        try:
            setting = self._setting(images, budget)
            for name, own in self._own.items():
                value = setting.shared.get(name, own)
                if value is not None:
                    setattr(self._processor.image_processor, name, value)
                    setattr(self.model.config, name, value)
            inputs = self._prompt(text, images, setting)
        except ValueError as error:
            raise Unanswered(f"its processor does not take the images: {error}") from error
        if budget is not None and self._count(inputs) > budget * len(images):
            raise UserError(
                f"{self.name}: its processor made {self._count(inputs)} visual tokens of {len(images)} images where "
                f"its family's rule promises {budget} each at most; ask it at 0 and max, or with the release of "
                "transformers that this project's lock names."
            )
        return inputs

    def _setting(self, images: Sequence[Image.Image], budget: Budget) -> Setting:
        if self.rule is None or budget == 0:
            return Setting()
        return self.rule.setting_for([(image.height, image.width) for image in images], budget)

    def _prompt(self, text: str, images: Sequence[Image.Image], setting: Setting) -> Mapping[str, Any]:
        options = {"images_kwargs": dict(setting.options)} if images and setting.options else {}
        processor = self._processor
        if not getattr(processor, "chat_template", None):  # a base model: its image tokens, and the text
            if not images:  # PaliGemma's processor wants an image
                return processor.tokenizer(text, return_tensors="pt")
            marks = "".join(str(processor.image_token) for _ in images)
            return processor(text=marks + text, images=[*images], return_tensors="pt", **options)
        parts = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
        return processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )

    def _count(self, inputs: Mapping[str, Any]) -> int:
        return int((inputs["input_ids"] == self.image_token_id).sum())

    def _on_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors among what a processor gives, where the weights are and of their type."""
        import torch

        return {
            name: tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
            if isinstance(tensor, torch.Tensor)
        }

    def _answer(
        self, inputs: Mapping[str, Any], max_new_tokens: int, reduce: Reduce | None
    ) -> tuple[Mapping[str, Any], list[int], float | None]:
        """What the model read, the ids of the reply and when its first token was there."""
        import torch

        try:
            with torch.no_grad():
                read = reduce(self.model, inputs) if reduce else inputs
                return (read, *self._generate(read, max_new_tokens))
        except torch.OutOfMemoryError as error:
            raise Unanswered(f"out of memory with {self._count(inputs)} visual tokens: {error}") from error

    def _generate(self, inputs: Mapping[str, Any], max_new_tokens: int) -> tuple[list[int], float | None]:
        from transformers import GenerationConfig

        clock = _Clock()
        own = self.model.generation_config
        stop = self._stop_ids()
        pad = own.pad_token_id if own.pad_token_id is not None else next(iter(stop), 0)
        greedy = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(stop) or None, pad_token_id=pad
        )
        out = self.model.generate(**inputs, generation_config=greedy, streamer=clock)
        return out[0, inputs["input_ids"].shape[-1] :].tolist(), clock.first

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text by itself, without what a prompt has around it."""
        return list(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decoded(self, ids: Sequence[int]) -> str:
        """The text of a reply."""
        return str(self._processor.decode(ids, skip_special_tokens=True)).strip()

    def _stop_ids(self) -> set[int]:
        own = self.model.generation_config.eos_token_id
        own = self._processor.tokenizer.eos_token_id if own is None else own
        return set(own) if isinstance(own, (list, tuple)) else {own} - {None}

    def close(self) -> None:
        """Free the weights, where nobody else needs them."""
        import torch

        self.n_users -= 1
        if self.n_users > 0:
            return
        self._loaded = None
        gc.collect()
        torch.cuda.empty_cache()


class _Clock:
    """A streamer that only looks at the clock: generate puts the prompt first, then each token."""

    def __init__(self) -> None:
        self.first: float | None = None
        self._n_put = 0

    def put(self, value: Any) -> None:
        self._n_put += 1
        if self._n_put == 2:
            self.first = time.perf_counter()

    def end(self) -> None:
        """Nothing is held open."""
