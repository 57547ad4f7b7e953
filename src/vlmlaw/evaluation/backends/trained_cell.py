"""A cell that this project trained, asked through its own evaluator: the same prompt, tower and greedy decoding."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.interface import TRAINED_HERE, Budget, Reply, budget_text
from vlmlaw.evaluation.backends.release_files import digest_of
from vlmlaw.evaluation.benchmark import pad_id_of, patches_reader
from vlmlaw.vlm.cost import count_parameters
from vlmlaw.vlm.generate import Prompter, replies
from vlmlaw.vlm.load import load_cell


class TrainedCell:
    """The model in a cell's folder (model/, or that folder itself). One question at a time, in float32.

    Its budgets are 0, its own V (`None`), and for one whose weights serve every V each that its compressor can make.
    What is known of it is read when it is made; to be asked it is loaded again, and freed by `close`.
    """

    def __init__(self, folder: Path, *, family: str = TRAINED_HERE):
        model = folder / "model" if (folder / "model" / "config.json").is_file() else folder
        if not (model / "config.json").is_file():
            raise UserError(
                f"{folder} holds no cell; expected a folder with model/config.json, as `vlmlaw train` makes."
            )
        self.name = model.parent.name if model.name == "model" else model.name
        self.family = family
        self.identity = f"{self.name} {digest_of(model)}"
        self._folder = model
        self._loaded: tuple[Any, Any] | None = None
        vlm = self._vlm
        self.n_params = float(count_parameters(vlm).llm_non_embedding)
        own = vlm.compressor
        self.allowed: list[int] = own.allowed_tokens(own.grid_side) if own.elastic else [own.n_visual_tokens]
        self._one_at_a_time = threading.Lock()
        del vlm, own
        self.close()

    @property
    def _vlm(self) -> Any:
        return self._load()[0]

    @property
    def _words(self) -> Any:
        return self._load()[1]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load_cell(self._folder, dtype="float32")
        return self._loaded

    def check(self, budgets: Sequence[Budget]) -> None:
        """Raise UserError for a budget that it cannot make, with those that it can."""
        for budget in budgets:
            if budget and budget not in self.allowed:
                there = ", ".join(map(str, [0, *self.allowed, "max"]))
                raise UserError(f"{self.name} cannot be asked at V = {budget_text(budget)}; it can at {there}.")

    def ask(self, text: str, images: Sequence[np.ndarray], *, budget: Budget, max_new_tokens: int) -> Reply:
        """The reply, decoded greedily; V is what the prompt holds. See `Backend.ask`."""
        with self._one_at_a_time:
            v = budget or None
            compressor = self._vlm.compressor.with_n_visual_tokens(v if self._vlm.compressor.elastic else None)
            prompter = Prompter(
                self._words,
                n_visual_tokens=compressor.n_input_tokens,
                image_token_id=self._vlm.config.image_token_id,
            )
            shown = [] if budget == 0 else list(images)
            prompt = prompter(text, *range(len(shown)))
            start = time.perf_counter()
            ((_, ids),) = replies(
                self._vlm,
                [prompt],
                patches_of=patches_reader(self._vlm, lambda place: shown[place]),
                stop_ids=prompter.stop_ids(),
                pad_id=pad_id_of(self._words),
                batch_size=1,
                max_new_tokens=max_new_tokens,
                n_visual_tokens=compressor.n_visual_tokens if self._vlm.compressor.elastic else None,
            )
            seconds = time.perf_counter() - start
        is_cut = len(ids) == max_new_tokens
        n_visual = compressor.n_visual_tokens * len(shown)  # of a compressor inside the LLM those that are left
        return Reply(
            text=self._words.decode(ids, skip_special_tokens=True).strip(),
            seconds=seconds,
            n_prompt_tokens=prompt.n_text_tokens + n_visual,
            n_visual_tokens=n_visual,
            n_generated_tokens=len(ids) if is_cut else len(ids) + 1,  # with the one that ends it
            finish="length" if is_cut else "stop",
            sizes=tuple((image.shape[0], image.shape[1]) for image in shown),
        )

    def close(self) -> None:
        """Free the weights."""
        self._loaded = None
        gc.collect()
