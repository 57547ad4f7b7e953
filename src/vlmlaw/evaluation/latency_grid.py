"""Milliseconds of a whole grid before anything is trained: models of the same shapes with random weights.

One process measures all cells, one after another: times of several machines, or of jobs that share one, could not be
compared. The time of an answer depends on shapes, not on what the weights hold.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from vlmlaw.errors import UserError
from vlmlaw.evaluation.latency import WARM_UP, Latency, measure_passes
from vlmlaw.evaluation.settings import TowerShape
from vlmlaw.hub.settings import ModelSettings
from vlmlaw.hub.shapes import config_of, text_config, vision_config
from vlmlaw.runtime.progress import progress
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.cost import count_parameters, inference_flops
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

if TYPE_CHECKING:
    from vlmlaw.evaluation.settings import LatencyPlan, LatencySettings, TimedCell
    from vlmlaw.training.settings import ShapeSettings

LATENCY_COLUMNS = {
    "first_token_ms": "milliseconds to the first token of an answer: one image with `timed_text_tokens`",
    "tower_ms": "of them the vision tower's",
    "question_ms": "of them the pass over the question, for compressors that read it",
    "compressor_ms": "of them compressor's and projector's",
    "llm_ms": "of them the language model's",
    "timed_text_tokens": "text tokens of the prompt that was timed",
}
QUESTION_TOKENS = 7  # of the question alone, as in QueCC's published FLOPs (laws/costs.py)
ROUNDS = 3
BUSY = 1.3  # how many times slower than the fastest parts the median pass is on a machine that does something else
SCALE = 0.02  # of the random weights: large enough that no activation is denormal, which a CPU computes slowly


def measure_grid(plan: LatencyPlan, out: Path) -> None:
    """Measure every cell of the plan and write the milliseconds, with the machine that took them, to `out` (JSON).

    Raises UserError where the machine has no such device, or a model's shape is not known without its own code.
    """
    device, found = _device(plan), {}
    torch.set_num_threads(plan.latency.threads)
    tower = _random(AutoModel, _tower_config(plan.vision), plan.vision, plan, device)
    for size, shape in progress(plan.sizes.items(), len(plan.sizes), "latency: sizes"):
        llm = _random(AutoModelForCausalLM, _text_config(shape), shape, plan, device)
        models = {cell.key: model_of(cell, tower, llm) for cell in plan.cells if cell.size == size}
        for key, passes in _passes_of(models, plan.latency).items():
            found[key] = _row(models[key], passes, plan.latency)
    _warn_if_busy(found)
    made = {"machine": machine(device), "settings": asdict(plan.latency), "cells": found}
    with whole_file(out) as partial:
        partial.write_text(json.dumps(made, indent=2), encoding="utf-8")


def _passes_of(models: Mapping[str, VlmForConditionalGeneration], asked: LatencySettings) -> dict[str, list[Latency]]:
    """The passes of each model, in rounds over all of them, so that none has a busy minute of the machine alone."""
    passes: dict[str, list[Latency]] = {key: [] for key in models}
    for number in range(ROUNDS):
        for key, model in models.items():
            passes[key] += measure_passes(
                model,
                **_lengths(asked),
                n_repeats=math.ceil(asked.repeats / ROUNDS),
                n_warm_up=1 if number else WARM_UP,
                seconds=asked.seconds / ROUNDS,
            )
    return passes


def _lengths(asked: LatencySettings) -> dict[str, int]:
    question = asked.question_tokens or QUESTION_TOKENS
    return {"n_text_tokens": asked.text_tokens, "question_tokens": min(question, asked.text_tokens)}


def _row(model: VlmForConditionalGeneration, passes: Sequence[Latency], asked: LatencySettings) -> dict[str, Any]:
    """Milliseconds of a model, and what says that the model is the cell's: N and the tower's FLOPs."""
    spent, flops = Latency.fastest_of(passes), inference_flops(model, **_lengths(asked))
    parts = {"first_token_ms": spent.all, "tower_ms": spent.tower, "question_ms": spent.question_pass}
    parts |= {"compressor_ms": spent.compressor, "llm_ms": spent.llm, "median_ms": median(one.all for one in passes)}
    return {
        **{name: round(value, 4) for name, value in parts.items()},
        "passes": len(passes),
        "n_params": count_parameters(model).llm_active,
        "vision_flops": flops.vision,
        "flops": flops.all,
        "flops_2nt": flops.llm_2nt,
    }


def _warn_if_busy(cells: Mapping[str, Mapping[str, Any]]) -> None:
    slowed = median(row["median_ms"] / row["first_token_ms"] for row in cells.values())
    if slowed > BUSY:
        print(
            f"latency: half of the passes took {slowed:.1f} times as long as the fastest parts: other programs were "
            "running. The fastest ones count; measure again on an idle machine to be sure.",
            file=sys.stderr,
        )


def machine(device: torch.device) -> dict[str, str]:
    """What a time was taken on: the device, and what computes on it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}


def _device(plan: LatencyPlan) -> torch.device:
    if plan.latency.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("latency.device is gpu, and this process sees none; take cpu, or run it where there is one.")
    return torch.device("cuda")


def model_of(cell: TimedCell, tower: Any, llm: Any) -> VlmForConditionalGeneration:
    """The model of a cell, on the device and in the arithmetic of its language model."""
    config = VlmConfig(
        vision_config=tower.config,
        text_config=llm.config,
        compressor=cell.compressor,
        compressor_options=dict(cell.compressor_options),
        n_visual_tokens=cell.n_visual_tokens,
        feature_layers=list(cell.feature_layers),
        position_embedding=cell.place_embedding,
        visual_span=cell.visual_span,
        projector_norm=cell.projector_norm,
        vision_dtype=str(tower.dtype).removeprefix("torch."),
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    model = VlmForConditionalGeneration.assemble(config, tower, llm)
    for part in model.connector.values():
        part.to(device=llm.device, dtype=llm.dtype)
    return model.eval()


def _tower_config(shape: Any) -> Any:
    if isinstance(shape, TowerShape):
        return ConvTowerConfig(hidden_size=shape.hidden_size, num_hidden_layers=shape.num_hidden_layers)
    own = vision_config(config_of(shape.source, shape.revision), image_size=shape.image_size)
    return _config(own, source=shape.source)


def _text_config(shape: ShapeSettings | ModelSettings) -> Any:
    if isinstance(shape, ModelSettings):
        return _config(text_config(config_of(shape.source, shape.revision)), source=shape.source)
    from vlmlaw.data.miniature.write import vocabulary
    from vlmlaw.training.language_model import qwen2_config

    return qwen2_config(shape, vocab_size=len(vocabulary()), pad_token_id=0, eos_token_id=0)


def _config(own: Mapping[str, Any], *, source: str) -> Any:
    try:
        return AutoConfig.for_model(**own)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"latency: {source} is of the type {own.get('model_type')!r}, which transformers has no class for; its "
            "time cannot be measured by shape. Leave the section out, and measure its trained cells: vlmlaw latency "
            "CELL."
        ) from error


@torch.no_grad()
def _random(kind: Any, config: Any, shape: Any, plan: LatencyPlan, device: torch.device) -> Any:
    """A model of this configuration with random weights."""
    own = getattr(shape, "dtype", "float32") if plan.latency.dtype == "own" else plan.latency.dtype
    with device, no_init_weights():
        model = kind.from_config(config, dtype=getattr(torch, own))
    model.tie_weights()
    for parameter in model.parameters():
        parameter.normal_(std=SCALE)
    return model.eval().requires_grad_(False)


def rows_of_latency(path: Path) -> Iterator[str]:
    """Lines of a Markdown table of what `measure_grid` wrote."""
    cells = _read(path)["cells"]
    names = [name for name in LATENCY_COLUMNS if name.endswith("_ms")]
    yield "| cell | " + " | ".join([*(name.replace("_", " ") for name in names), "2N(Q+V), GFLOP", "all, GFLOP"]) + " |"
    yield "|---" + "|--:" * (len(names) + 2) + "|"
    for key, row in cells.items():
        figures = [*(row[name] for name in names), row["flops_2nt"] / 1e9, row["flops"] / 1e9]
        yield f"| `{key}` | " + " | ".join(f"{figure:.3g}" for figure in figures) + " |"


def add_latency(measurements: Path, latency: Path) -> None:
    """Add the columns LATENCY_COLUMNS to a measurements.csv, which is replaced; all else stays, byte for byte.

    Raises UserError where a cell was not timed, or was timed with another language model or tower.
    """
    table = pd.read_csv(measurements, dtype=str, keep_default_na=False)
    timed = _read(latency)
    keys = table["size"] + "_v" + table["kept_tokens"] + "_" + table["compressor"]
    _require_same_cells(table, keys, timed["cells"], latency=latency)
    for name in LATENCY_COLUMNS:
        table[name] = [str(timed["cells"][key].get(name, timed["settings"]["text_tokens"])) for key in keys]
    with whole_file(measurements) as partial:
        table.to_csv(partial, index=False)


def _require_same_cells(table: pd.DataFrame, keys: Sequence[str], cells: Mapping[str, Any], *, latency: Path) -> None:
    for key, row in dict(zip(keys, table.to_dict("records"), strict=True)).items():
        if key not in cells:
            raise UserError(f"{latency} has no milliseconds of {key}, a cell of the table; measure the grid again.")
        for name in ("n_params", "vision_flops"):
            if int(row[name]) != cells[key][name]:
                raise UserError(
                    f"{latency} timed {key} with {name} = {cells[key][name]}, and the cell has {row[name]}: another "
                    "model. Measure the grid again."
                )


def _read(path: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made["cells"], made["settings"]["text_tokens"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no milliseconds ({error!r}); expected what `vlmlaw latency --out` wrote."
        ) from error
    return made
