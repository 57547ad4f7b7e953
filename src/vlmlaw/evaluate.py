"""One cell's downstream error on a split: for each suite and each kind of question, with standard errors.

An answer counts when greedy decoding would give it exactly. That is the case if and only if every token of the answer,
its end included where it is asked for, is the most likely one given the right tokens before it, so one forward pass
with all answers in place decides it without generating.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from vlmlaw import cost
from vlmlaw.compressors import ALL_PATCHES, compressor_class
from vlmlaw.data.shards import Dataset
from vlmlaw.encoder import load_features
from vlmlaw.errors import UserError
from vlmlaw.files import whole_file
from vlmlaw.language_model import tensors
from vlmlaw.model import VlmForConditionalGeneration
from vlmlaw.names import cell_name
from vlmlaw.packing import IGNORE_INDEX, PREFIX, TokenTable, load_tokenizer, make_batch
from vlmlaw.progress import progress

if TYPE_CHECKING:
    from vlmlaw.experiment import EvaluationSettings, MeasuredCell

ALL_KINDS = "all"


@torch.no_grad()
def judge(
    model: VlmForConditionalGeneration, table: TokenTable, features: Any, *, batch_size: int, pad_id: int
) -> pd.DataFrame:
    """One row for each question: `record`, `question` (its number in the record, from 0) and `right`."""
    parts = []
    starts = range(0, len(table), batch_size)
    for start in progress(starts, len(starts), "evaluation"):
        records = list(range(start, min(start + batch_size, len(table))))
        batch = make_batch(
            table,
            records,
            n_visual_tokens=model.compressor.n_input_tokens,
            pad_id=pad_id,
            reads_question=model.reads_question,
        )
        given = tensors(batch)
        targets = given["targets"]
        wanted = targets != IGNORE_INDEX
        logits = model(**given, patches=features(batch.image_rows), use_cache=False).logits
        rows, _ = torch.nonzero(wanted, as_tuple=True)
        right = (logits.argmax(-1) == targets[wanted]).numpy()
        parts.append(
            pd.DataFrame(
                {
                    "record": batch.records[rows.numpy()],
                    "question": batch.questions[wanted.numpy()],
                    "right": right,
                }
            )
        )
    return pd.concat(parts).groupby(["record", "question"], as_index=False).right.all()


@dataclass(frozen=True)
class Score:
    """Mean error of n questions, and its standard error with the images as clusters."""

    error: float
    error_se: float
    n_questions: int


def score(wrong: np.ndarray, images: np.ndarray) -> Score:
    """The mean of `wrong` (0 or 1 for each question) and its cluster-robust standard error.

    Questions on one image are not independent: se^2 = G / (G - 1) * sum over images of (sum of residuals)^2 / n^2
    for G images (Liang & Zeger 1986; as in Miller 2024, arXiv 2411.00640, for evaluations).
    """
    n_questions = len(wrong)
    mean = wrong.mean()
    sums = pd.Series(wrong - mean).groupby(images).sum()
    n_images = len(sums)
    variance = n_images / max(n_images - 1, 1) * (sums**2).sum() / n_questions**2
    return Score(float(mean), float(np.sqrt(variance)), n_questions)


def scores_of(judged: pd.DataFrame, dataset: Dataset) -> dict[str, dict[str, Score]]:
    """scores[suite][kind], the kind `all` being the whole suite."""
    records = dataset.records
    places = zip(judged.record, judged.question, strict=True)
    named = judged.assign(
        suite=[records[r].suite for r in judged.record], kind=[records[r].kinds[q] for r, q in places]
    )
    scores: dict[str, dict[str, Score]] = {}
    for suite, of_suite in named.groupby("suite"):
        groups = [(ALL_KINDS, of_suite), *of_suite.groupby("kind")]
        scores[str(suite)] = {
            str(kind): score(~group.right.to_numpy(dtype=bool), group.record.to_numpy()) for kind, group in groups
        }
    return scores


def mean_text_tokens(table: TokenTable) -> int:
    """Text tokens of one image with one question, on average and rounded: the Q of the cost."""
    record = np.repeat(np.arange(len(table)), np.diff(table.starts))
    # An answer's token stands behind the place that predicts it, in the same segment. Answers are not asked.
    same = (np.diff(record, prepend=-1) == 0) & (np.diff(table.segments, prepend=-1) == 0)
    is_answer = same & np.concatenate([[False], table.targets[:-1] != IGNORE_INDEX])
    is_asked = ~is_answer & (table.ids != table.image_token_id)
    in_prefix = table.segments == PREFIX
    n_questions = (~same & ~in_prefix).sum()
    return round((is_asked & in_prefix).sum() / len(table) + (is_asked & ~in_prefix).sum() / n_questions)


def load_cell(model: Path, cell: MeasuredCell | None = None) -> VlmForConditionalGeneration:
    """The trained model in a folder, as `cell` has it: with another V or a training-free compressor.

    Raises UserError where the model's weights do not serve that cell.
    """
    config = AutoConfig.from_pretrained(model)
    if cell is not None:
        own = (config.compressor, config.n_visual_tokens)
        wanted = compressor_class(cell.compressor)
        same = cell.compressor == config.compressor and (wanted.elastic or cell.n_visual_tokens == own[1])
        if not (same or (wanted.training_free and config.compressor == ALL_PATCHES)):
            raise UserError(
                f"{model} was trained with {own[0]} at V = {own[1]}; it cannot be evaluated as {cell.compressor} at "
                f"V = {cell.n_visual_tokens}. Its weights serve that V only, or are not those of all patches "
                f"({ALL_PATCHES}), to which training-free compressors are applied."
            )
        config.compressor, config.n_visual_tokens = cell.compressor, cell.n_visual_tokens
        config.compressor_options = dict(cell.compressor_options)
    return AutoModelForImageTextToText.from_pretrained(model, config=config).eval()


def evaluate_cell(
    model: Path,
    dataset: Path,
    tokens: Path,
    features: Path,
    out: Path,
    *,
    settings: EvaluationSettings,
    cell: MeasuredCell | None = None,
) -> None:
    """Evaluate a trained cell and write its scores, parameters and inference FLOPs to `out` (JSON).

    `cell` says which one, where the model's weights serve several.
    """
    vlm = load_cell(model, cell)
    words = load_tokenizer(model)
    table, data = TokenTable.load(tokens), Dataset(dataset)
    features_of = load_features(features, layers=vlm.config.feature_layers)
    judged = judge(vlm, table, features_of, batch_size=settings.batch_size, pad_id=words.pad_token_id)
    training = json.loads((model.parent / "training.json").read_text())
    n_text_tokens = mean_text_tokens(table)
    flops = cost.inference_flops(vlm, n_text_tokens=n_text_tokens)
    trained_as = {name: training["settings"][name] for name in ("size", "n_visual_tokens", "compressor", "seed")}
    result = {
        "cell": trained_as | {"n_visual_tokens": vlm.config.n_visual_tokens, "compressor": vlm.config.compressor},
        "training": cell_name(**trained_as),
        "scores": {
            suite: {kind: asdict(value) for kind, value in kinds.items()}
            for suite, kinds in scores_of(judged, data).items()
        },
        "parameters": asdict(cost.count_parameters(vlm)),
        "n_text_tokens": n_text_tokens,
        "flops": asdict(flops) | {"all": flops.all},
        "train_seconds": training["wall_seconds"],
        "train_cpu_seconds": training["cpu_seconds"],
    }
    with whole_file(out) as partial:
        partial.write_text(json.dumps(result, indent=2))
