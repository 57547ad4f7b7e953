"""Chat with a trained cell: ask it a question about an image (`vlmlaw chat`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig

from vlmlaw.data.image_file import UnreadableImage, open_rgb
from vlmlaw.errors import UserError
from vlmlaw.settings import build
from vlmlaw.vlm.cell_name import MeasuredCell
from vlmlaw.vlm.load import load_cell
from vlmlaw.vlm.processor import VlmProcessor
from vlmlaw.vlm.readable import room_for_replies


def find_model(cell: str, *, results: Path) -> tuple[Path, MeasuredCell | None]:
    """Find the folder of a cell's model by the name of the cell in the results, or by the path of either folder.

    Also returns the cell, as read from its evaluations, if it shares the weights of a training with others.
    Raises UserError that lists the existing cells.
    """
    for folder in (results / "cells" / cell, Path(cell)):
        for model in (folder / "model", folder):
            if (model / "config.json").is_file():
                return model, None
        for path in _evaluations(folder):
            evaluation = json.loads(path.read_text(encoding="utf-8"))
            model = folder.resolve().parent / evaluation["training"] / "model"
            if (model / "config.json").is_file():
                return model, build(MeasuredCell, evaluation["cell"], where=str(path))
    folders = sorted(results.glob("cells/*"))
    there = [path.name for path in folders if (path / "model" / "config.json").is_file() or _evaluations(path)]
    told = f"there are {', '.join(there[:8])}" if there else f"{results}/cells has none yet"
    raise UserError(f"no trained cell is called {cell!r}, and it is no folder of one; {told}.")


def _evaluations(folder: Path) -> list[Path]:
    found = [*folder.glob("evaluation.json"), *sorted(folder.glob("benchmarks/*.json"))]
    return [path for path in found if not path.name.endswith(".record.json")]


@torch.no_grad()
def ask(
    folder: Path, image: Path | None, question: str, *, max_new_tokens: int, cell: MeasuredCell | None = None
) -> str:
    """The answer of the model in `folder` by greedy decoding; `cell` says which one if several share its weights.

    Raises UserError if image or model cannot be read, or where the question is beyond the model's positions.
    """
    try:
        model, words = load_cell(folder, cell=cell)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be loaded as a cell's model: {error}") from error
    reader = VlmProcessor.of_model(model, words)
    shown = [] if image is None else [{"type": "image", "image": _open(image)}]
    message = {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
    given = reader.apply_chat_template([message], add_generation_prompt=True, tokenize=True, return_dict=True)
    given = given.to(model.device)
    n_images, n_all = len(shown), given["input_ids"].shape[1]
    n_text = n_all - n_images * model.compressor.n_input_tokens
    (room,) = room_for_replies(model, [(n_text, n_images)])
    # Its own configuration may ask for sampling or a repetition penalty, as Qwen's does.
    greedy = GenerationConfig(
        max_new_tokens=min(max_new_tokens, room),
        do_sample=False,
        eos_token_id=_ends(model, reader.tokenizer),
        pad_token_id=reader.tokenizer.pad_token_id,
    )
    ids = model.generate(**given, generation_config=greedy)
    return reader.tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def _ends(model: Any, tokenizer: Any) -> list[int]:
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return sorted(token for token in ends if token is not None)


def _open(path: Path) -> Image.Image:
    try:
        return open_rgb(path)
    except UnreadableImage as error:
        raise UserError(f"the image {path} {error}.") from error
