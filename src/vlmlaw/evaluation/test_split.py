"""Error of a cell on the test split, for each suite and each kind of question, with standard errors.

An answer is right if greedy decoding would produce it exactly. This holds if and only if every token of the answer
(including its end, if that is a target) is the most likely one given the right tokens before it, so one forward pass
over all answers decides it without generation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from vlmlaw.data.shards import Dataset
from vlmlaw.evaluation.cell_facts import describe_cell
from vlmlaw.evaluation.scores import Score, score
from vlmlaw.evaluation.settings import ON_A_CPU
from vlmlaw.runtime.progress import Progress
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.tokens.packing import make_batch
from vlmlaw.tokens.token_table import IGNORE_INDEX, PREFIX, TokenTable
from vlmlaw.training.batches import model_inputs
from vlmlaw.vlm.images import ImagesOf, open_images
from vlmlaw.vlm.load import load_cell
from vlmlaw.vlm.memory import replies_at_once
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.pruning import batches_for
from vlmlaw.vlm.readable import require_readable
from vlmlaw.vlm.reference import require_layout

if TYPE_CHECKING:
    from vlmlaw.evaluation.settings import EvaluationSettings
    from vlmlaw.vlm.cell_name import MeasuredCell

ALL_KINDS = "all"


@torch.no_grad()
def judge(
    model: VlmForConditionalGeneration, table: TokenTable, images_of: ImagesOf, *, batch_size: int, pad_id: int
) -> pd.DataFrame:
    """One row for each question: `record`, `question` (its number in the record, from 0), `right` and `probability`.

    The last is that of the whole answer: the product over its tokens. Where the device runs out of memory, batches
    are halved from there on.
    """
    parts = []
    splits = model.reads_question
    if not splits and bool((table.segments > PREFIX + 1).any()):
        splits = require_layout(model.language_model, preferred=["shared", "padded"])[0] == "padded"

    def batches_of(records: Sequence[int], size: int) -> list[list[int]]:
        return batches_for(model.compressor, records, table.n_images[list(records)].tolist(), batch_size=size)

    shown, batches = Progress(len(table), "evaluation"), batches_of(range(len(table)), batch_size)
    while batches:
        records = batches[0]
        try:
            parts.append(_judged(model, table, records, images_of, pad_id=pad_id, splits=splits))
        except torch.OutOfMemoryError:
            if len(records) == 1:
                raise
            batches = batches_of([record for batch in batches for record in batch], len(records) // 2)
            continue
        del batches[0]
        shown.step(n=len(records))
    shown.close()
    of_question = pd.concat(parts).groupby(["record", "question"], as_index=False)
    return of_question.agg(right=("right", "all"), probability=("probability", "prod"))


def _judged(
    model: VlmForConditionalGeneration,
    table: TokenTable,
    records: Sequence[int],
    images_of: ImagesOf,
    *,
    pad_id: int,
    splits: bool,
) -> pd.DataFrame:
    """One row for each target of these records."""
    n_tokens = model.compressor.n_input_tokens
    batch = make_batch(table, list(records), n_visual_tokens=n_tokens, pad_id=pad_id, reads_question=splits)
    inputs = model_inputs(batch, images_of(batch.image_rows))
    targets = inputs["targets"]
    wanted = targets != IGNORE_INDEX
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    logits_nV = model(**inputs, use_cache=False).logits.float().cpu()
    rows, _ = torch.nonzero(wanted, as_tuple=True)
    log_p_n = logits_nV.log_softmax(-1).gather(-1, targets[wanted][:, None])[:, 0]
    return pd.DataFrame(
        {
            "record": batch.records[rows.numpy()],
            "question": batch.questions[wanted.numpy()],
            "right": (logits_nV.argmax(-1) == targets[wanted]).numpy(),
            "probability": log_p_n.double().exp().numpy(),
        }
    )


def records_at_once(model: VlmForConditionalGeneration, table: TokenTable, batch_size: int | str) -> int:
    """The batch of an evaluation: the number that was set or, for `auto`, what a GPU has room for, 64 on a CPU."""
    if batch_size != "auto":
        return int(batch_size)
    if model.device.type != "cuda":
        return ON_A_CPU
    visual = table.n_images * model.compressor.n_input_tokens
    return replies_at_once(
        model.config.text_config,
        model.config.vision_config,
        size=model.dtype.itemsize,
        n_prompt=int((np.diff(table.starts) + visual).max()),
        n_new=0,
        memory=torch.cuda.get_device_properties(model.device).total_memory,
    )


def scores_of(judged: pd.DataFrame, dataset: Dataset) -> dict[str, dict[str, Score]]:
    """Scores by suite, then by kind of question; the kind `all` is the whole suite."""
    records = dataset.records
    places = zip(judged.record, judged.question, strict=True)
    named = judged.assign(
        suite=[records[r].suite for r in judged.record], kind=[records[r].kinds[q] for r, q in places]
    )
    scores: dict[str, dict[str, Score]] = {}
    for suite, of_suite in named.groupby("suite"):
        groups = [(ALL_KINDS, of_suite), *of_suite.groupby("kind")]
        scores[str(suite)] = {
            str(kind): score(
                ~group.right.to_numpy(dtype=bool),
                group.record.to_numpy(),
                doubts=1 - group.probability.to_numpy(dtype=float),
            )
            for kind, group in groups
        }
    return scores


def mean_text_tokens(table: TokenTable) -> int:
    """The mean number of text tokens of one image with one question, rounded: the Q of the cost."""
    record = np.repeat(np.arange(len(table)), np.diff(table.starts))
    # An answer's token stands behind the place that predicts it, in the same segment. Answers are not asked.
    same = (np.diff(record, prepend=-1) == 0) & (np.diff(table.segments, prepend=-1) == 0)
    is_answer = same & np.concatenate([[False], table.targets[:-1] != IGNORE_INDEX])
    is_asked = ~is_answer & (table.ids != table.image_token_id)
    in_prefix = table.segments == PREFIX
    n_questions = (~same & ~in_prefix).sum()
    return round((is_asked & in_prefix).sum() / len(table) + (is_asked & ~in_prefix).sum() / n_questions)


def mean_question_tokens(table: TokenTable) -> int:
    """The mean length of what an image is asked, alone through the tokenizer, rounded; 0 without images."""
    return round(len(table.question_ids) / max(1, len(table.question_starts) - 1))


def evaluate_cell(
    model: Path,
    dataset: Path,
    tokens: Path,
    images: Path,
    out: Path,
    *,
    settings: EvaluationSettings,
    cell: MeasuredCell | None = None,
) -> None:
    """Evaluate a trained cell on a test split; write its scores, parameters and inference FLOPs to `out` (JSON).

    cell: which cell it is, if several share the weights of the model.
    """
    vlm, words = load_cell(model, cell=cell)
    table, data = TokenTable.load(tokens), Dataset(dataset)
    require_readable(vlm, table, words, source=tokens)
    images_of = open_images(images, layers=vlm.config.feature_layers, image_px=vlm.config.vision_config.image_size)
    batch_size = records_at_once(vlm, table, settings.batch_size)
    judged = judge(vlm, table, images_of, batch_size=batch_size, pad_id=words.pad_token_id)
    scores = {
        suite: {kind: asdict(value) for kind, value in kinds.items()}
        for suite, kinds in scores_of(judged, data).items()
    }
    result = {"scores": scores} | describe_cell(
        vlm, model, n_text_tokens=mean_text_tokens(table), question_tokens=mean_question_tokens(table)
    )
    with whole_file(out) as partial:
        partial.write_text(json.dumps(result, indent=2))
