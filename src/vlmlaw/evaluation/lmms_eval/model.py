"""A cell as a model of lmms-eval: `--model vlmlaw --model_args pretrained=results/cells/CELL/model`.

Only lmms-eval imports this module, in an environment that has it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image

from vlmlaw.data.image_file import as_rgb
from vlmlaw.errors import UserError
from vlmlaw.evaluation.benchmark import pad_id_of, patches_reader
from vlmlaw.evaluation.lmms_eval.run import MODEL_ID
from vlmlaw.runtime.progress import Progress
from vlmlaw.vlm.generate import Prompt, Prompter, prompt_tensors, replies
from vlmlaw.vlm.load import load_cell
from vlmlaw.vlm.readable import room_for_replies

DEFAULT_NEW_TOKENS = 1024  # as lmms-eval's own models, where a task does not say
ImageKey = tuple[str, str, Any, int]  # task, split, document, which of its images


class VlmlawModel(lmms):
    """Answers lmms-eval's requests greedily, the same at any batch size in float32."""

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 16,
        dtype: str = "float32",
        device: str | None = None,
        **unknown: Any,
    ):
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "a cell is evaluated by one process; run cells side by side instead of `accelerate launch`."
            )
        given = {key: value for key, value in unknown.items() if value is not None and key != "max_batch_size"}
        if given:
            raise UserError(f"unknown model_args {', '.join(given)}; there are pretrained, dtype.")
        from pathlib import Path

        self._vlm, self._words = load_cell(Path(pretrained), dtype=dtype)
        if device:
            self._vlm.to(device)
        self._batch_size = int(batch_size)
        config = self._vlm.config
        self._prompter = Prompter(
            self._words, n_visual_tokens=self._vlm.compressor.n_input_tokens, image_token_id=config.image_token_id
        )
        self._pictures: dict[ImageKey, Image.Image] = {}
        self._patches_of = patches_reader(self._vlm, self._read)

    def _read(self, key: ImageKey) -> np.ndarray:
        return np.asarray(as_rgb(self._pictures[key]))

    def _prompt(self, context: str, doc_to_visual: Any, doc_id: Any, task: str, split: str) -> Prompt:
        """The prompt of a request. Raises UserError for videos."""
        pictures = [
            picture for picture in doc_to_visual(self.task_dict[task][split][doc_id]) or [] if picture is not None
        ]
        if not all(isinstance(picture, Image.Image) for picture in pictures):
            raise UserError(f"{task}: found a {type(pictures[0]).__name__}; a cell reads images, not videos or sound.")
        keys: list[ImageKey] = [(task, split, doc_id, index) for index in range(len(pictures))]
        self._pictures.update(zip(keys, pictures, strict=True))
        return self._prompter(context, *keys)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The replies to requests of (context, generation options, doc_to_visual, doc_id, task, split)."""
        said = [""] * len(requests)
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(_limits(request.args[1], task=request.args[4]), []).append(index)
        shown = Progress(len(requests), "lmms-eval")
        for (max_new_tokens, until), own in groups.items():
            prompts = []
            for index in own:
                context, _, doc_to_visual, doc_id, task, split = requests[index].args
                prompts.append(self._prompt(context, doc_to_visual, doc_id, task, split))
            for place, ids in replies(
                self._vlm,
                prompts,
                patches_of=self._patches_of,
                stop_ids=self._prompter.stop_ids(),
                pad_id=pad_id_of(self._words),
                batch_size=self._batch_size,
                max_new_tokens=max_new_tokens,
            ):
                said[own[place]] = _cut(self._words.decode(ids, skip_special_tokens=True).strip(), until)
                shown.step()
            self._pictures.clear()
        shown.close()
        return said

    @torch.no_grad()
    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether it is what greedy decoding says), one request at a time."""
        found = []
        for request in requests:
            context, target, doc_to_visual, doc_id, task, split = request.args
            continuation = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
            prompt = self._prompt(context, doc_to_visual, doc_id, task, split)
            ids = self._words(continuation, add_special_tokens=False)["input_ids"]
            whole = replace(prompt, ids=(*prompt.ids, *ids), n_text_tokens=prompt.n_text_tokens + len(ids))
            room_for_replies(self._vlm, [(whole.n_text_tokens, len(whole.images))])
            given = prompt_tensors(self._vlm, [whole], patches_of=self._patches_of, pad_id=pad_id_of(self._words))
            logits = self._vlm(**given, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1].float()
            wanted = torch.tensor(ids, device=logits.device)
            chosen = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
            found.append((chosen.item(), bool((logits.argmax(-1) == wanted).all())))
            self._pictures.clear()
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError(f"--model {MODEL_ID} answers one question at a time; no task of several rounds runs")


def _limits(options: Mapping[str, Any], *, task: str) -> tuple[int, tuple[str, ...]]:
    """max_new_tokens, and what ends a reply. Raises UserError for a task that asks for other than greedy decoding."""
    if options.get("do_sample") or options.get("num_beams", 1) != 1:
        raise UserError(f"{task}: found the generation options {dict(options)}; a cell decodes greedily.")
    until = options.get("until") or ()
    return options.get("max_new_tokens") or DEFAULT_NEW_TOKENS, (until,) if isinstance(until, str) else tuple(until)


def _cut(text: str, until: tuple[str, ...]) -> str:
    for end in until:
        text = text.split(end)[0]
    return text.strip()
