"""A cell's model card: what the model is, what it was made from, its errors, how to load it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlaw.files import whole_file

CARD = "README.md"
USE = """```python
import vlmlaw.processor  # makes the model known to transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{folder}")
processor = AutoProcessor.from_pretrained("{folder}")
message = [{{"role": "user", "content": "<image>\\nWhat is this?"}}]
text = processor.apply_chat_template(message, add_generation_prompt=True)
ids = model.generate(**processor(text=text, images=Image.open("image.png")), max_new_tokens=32)
print(processor.decode(ids[0]))
```

or `vlmlaw chat {folder} image.png "What is this?"`."""


def write_card(name: str, training: Mapping[str, Any], evaluation: Mapping[str, Any], model: Path, out: Path) -> None:
    """Write the card of a cell to `out`: its training.json and evaluation.json in words, and how to load `model`."""
    settings, n_visual_tokens = training["settings"], evaluation["cell"]["n_visual_tokens"]
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [vlmlaw]\n---",
        f"# {name}",
        f"A vision-language model that reads an image as {n_visual_tokens} visual "
        f"{'token' if n_visual_tokens == 1 else 'tokens'} ({settings['compressor']}), one cell of a grid made by "
        "vlmlaw to measure how error follows from the size of the language model and the number of visual tokens.",
        "## Errors on the test split\n\n" + _table(evaluation["scores"]),
        "## Size and training\n\n" + "\n".join(f"- {line}" for line in _facts(training, evaluation["parameters"])),
        "## Use\n\n" + USE.format(folder=os.path.relpath(model, out.parent)),
    ]
    with whole_file(out) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    rows = ["| suite | kind | error | standard error | questions |", "|---|---|---|---|---|"]
    for suite, kinds in scores.items():
        for kind, score in kinds.items():
            figures = f"{score['error']:.3f} | {score['error_se']:.3f} | {score['n_questions']}"
            rows.append(f"| {suite} | {kind} | {figures} |")
    return "\n".join(rows)


def _said(model: Mapping[str, str]) -> str:
    return model["source"] + (f" at commit {model['commit']}" if model["commit"] else "")


def _facts(training: Mapping[str, Any], parameters: Mapping[str, int]) -> list[str]:
    settings, plan = training["settings"], training["settings"]["training"]
    versions = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
    between = parameters["compressor"] + parameters["projector"]
    return [
        *(f"{part.replace('_', ' ').capitalize()}: {_said(of)}." for part, of in training.get("origins", {}).items()),
        f"{parameters['llm']:,} parameters of the language model, {parameters['llm_non_embedding']:,} without "
        f"embeddings; {parameters['vision']:,} of the vision tower; {between:,} between.",
        f"{training['steps']:,} steps of {plan['batch_size']} records, AdamW at {plan['learning_rate']:g} (what lies "
        f"between: {plan['new_learning_rate']:g}), cosine with {plan['warmup_share']:.0%} warm-up, {plan['dtype']}; "
        f"last loss {training['last_loss']:.3f}, {training['wall_seconds']:,.0f} s.",
        f"Seed {settings['seed']}; {versions}.",
    ]
