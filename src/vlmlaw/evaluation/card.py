"""Model card of a cell: description, origin, errors, and how to load it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.vlm.cell_name import CELL_KEYS, cell_named_in

CARD = "README.md"
TEST = "evaluation.json"  # a cell on the test split; on a benchmark it is benchmarks/NAME.json
USE = """```python
import vlmlaw.auto  # makes the model known to transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{folder}")
processor = AutoProcessor.from_pretrained("{folder}")
"""
USE_SHARED = """```python
from transformers import AutoModelForImageTextToText, AutoTokenizer
from vlmlaw.auto import VlmProcessor

# The weights are those of {training}, which several cells share: what makes them this one is said here.
cell = {cell}
model = AutoModelForImageTextToText.from_pretrained("{folder}", **cell)
processor = VlmProcessor.of_model(model, AutoTokenizer.from_pretrained("{folder}"))
"""
ASK = """\
parts = [{{"type": "image", "path": "image.png"}}, {{"type": "text", "text": "{question}"}}]
messages = [{{"role": "user", "content": parts}}]
inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
ids = model.generate(**inputs, max_new_tokens=32)
print(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

or, in this folder, `vlmlaw chat . image.png "{question}"`."""
PIPELINE = """

`pipeline("image-text-to-text", model=model, processor=processor)` takes the same messages."""
QUESTION, MINIATURE_QUESTION = "What is this?", "shape red"  # the miniature's models know the words of their data alone
SERVE = """

Where vlmlaw is installed, transformers loads it as any model with code of its own:
`pipeline("image-text-to-text", model="{folder}", trust_remote_code=True)`, and
`transformers serve --trust-remote-code {folder}` (with the extra `vlmlaw[serve]`) for OpenAI's chat format."""


def write_cards(cells: Path, evaluations: Mapping[str, Sequence[str]]) -> None:
    """Write the card of each cell in the folder `cells`, from its evaluations there (paths below its own folder)."""
    for cell, files in evaluations.items():
        scores = [cells / cell / file for file in files]
        card_of(scores, cells / (_read(scores[0])["training"] or cell) / "model", cells / cell / CARD)


def card_of(scores: Sequence[Path], model: Path, out: Path) -> None:
    """Write a cell's card from its evaluation.json and benchmarks/NAME.json.

    Raises UserError where one of them is no evaluation, or of another cell.
    """
    evaluations = [_read(path) for path in scores]
    others = [str(path) for path, one in zip(scores, evaluations, strict=True) if one["cell"] != evaluations[0]["cell"]]
    if others:
        raise UserError(f"{', '.join(others)}: of another cell than {scores[0]}; a card is of one cell.")
    of_test = [one for path, one in zip(scores, evaluations, strict=True) if path.name == TEST]
    asked = [one for path, one in zip(scores, evaluations, strict=True) if path.name != TEST]
    write_card({"the test split": of_test, "benchmarks": asked}, model, out)


def write_card(evaluations: Mapping[str, Sequence[Mapping[str, Any]]], model: Path, out: Path) -> None:
    """Write the card of the cell in whose folder `out` is: its errors, what it was made from, how to load `model`.

    `evaluations` are of one cell, by what they are on: the test split, benchmarks. The rest is told by the
    training.json beside `model`.
    """
    first = next(one for each in evaluations.values() for one in each)
    cell, parameters = first["cell"], first["parameters"]
    account = model.parent / "training.json"
    try:
        training = json.loads(account.read_text(encoding="utf-8"))
        facts = _facts(training, parameters)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{account} does not describe a training ({error!r}); train the cell again.") from error
    n_visual_tokens = cell["n_visual_tokens"]
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [vlmlaw]\n---",
        f"# {cell_named_in(cell)}",
        f"A vision-language model that reads an image as {n_visual_tokens} visual "
        f"{'token' if n_visual_tokens == 1 else 'tokens'} ({cell['compressor']}), one cell of a grid made by "
        "vlmlaw to measure how error follows from the size of the language model and the number of visual tokens.",
        *(
            f"## Errors on {on}\n\n" + _table([one["scores"] for one in each])
            for on, each in evaluations.items()
            if each
        ),
        "## Size and training\n\n" + "\n".join(f"- {line}" for line in facts),
        "## Use\n\n" + _use(cell, training, os.path.relpath(model, out.parent)),
    ]
    with whole_file(out) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        _table([evaluation["scores"]])
        named = {key: evaluation[key] for key in ("cell", "parameters", "scores")}
        return named | {"training": evaluation.get("training")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no evaluation of a cell ({error!r}); expected its evaluation.json or benchmarks/NAME.json."
        ) from error


def _use(cell: Mapping[str, Any], training: Mapping[str, Any], folder: str) -> str:
    trained_as = training["settings"]
    question = QUESTION if training.get("origins") else MINIATURE_QUESTION  # what is loaded has an origin
    if all(cell[key] == trained_as[key] for key in CELL_KEYS):
        return (USE + ASK + SERVE).format(folder=folder, question=question)
    own = {key: cell[key] for key in ("compressor", "n_visual_tokens", "compressor_options")}
    named = {"cell": own, "training": cell_named_in(trained_as)}
    return (USE_SHARED + ASK + PIPELINE).format(folder=folder, question=question, **named)


def _table(of_each: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    rows = ["| suite | kind | error | standard error | questions | replies not read |", "|---|---|---|---|---|---|"]
    suites = [of_suite for scores in of_each for of_suite in scores.items()]
    for suite, kinds in sorted(suites, key=lambda of_suite: of_suite[0]):
        for kind, score in kinds.items():
            figures = f"{score['error']:.3f} | {score['error_se']:.3f} | {score['n_questions']}"
            unread = score.get("unread")
            rows.append(f"| {suite} | {kind} | {figures} | {'' if unread is None else f'{unread:.1%}'} |")
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
