"""Pretrain the miniature's language models: a Qwen2 for each size, trained once on text and shared by its cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from vlmlaw.data.miniature.canvas import GRID_SIDE
from vlmlaw.runtime.whole_files import whole_folder
from vlmlaw.runtime.workspace import clear_workspace, workspace_of
from vlmlaw.tokens.packing import Batch, make_batch, records_of_step, tensors
from vlmlaw.tokens.token_table import IGNORE_INDEX, PREFIX, TokenTable, load_tokenizer
from vlmlaw.training.loop import fit
from vlmlaw.training.optimizer import make_optimizer
from vlmlaw.training.workspace import account, use_repeatable_arithmetic
from vlmlaw.vlm.loss import prediction_loss
from vlmlaw.vlm.own_forward import read

if TYPE_CHECKING:
    from vlmlaw.training.settings import ShapeSettings, SizeSettings

HEAD_MULTIPLE = 8  # the MLP's width is rounded to a multiple of this
N_PATCHES = GRID_SIDE**2  # the most visual tokens that a question of the miniature can stand behind
ROPE_THETA = 1000.0  # prompts of the miniature are short; Qwen2's 1e6 would leave most rotary dimensions unused


def qwen2_config(settings: ShapeSettings, *, vocab_size: int, pad_token_id: int, eos_token_id: int) -> Qwen2Config:
    """Return a Qwen2 of that shape. By default its MLP has 8/3 of its width d, so a layer has 12 d^2 parameters."""
    width = settings.hidden_size
    unless_set = {
        "num_key_value_heads": settings.num_attention_heads,
        "intermediate_size": width * 8 // 3 // HEAD_MULTIPLE * HEAD_MULTIPLE,  # of three matrices; attention has 4 d^2
        "rope_theta": ROPE_THETA,
        # Narrow models need more than the 0.02 that is usual at width 1,000 and above.
        "initializer_range": 0.5 * width**-0.5,
    }
    return Qwen2Config(
        **{**unless_set, **settings.shape},
        vocab_size=vocab_size,
        tie_word_embeddings=True,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        bos_token_id=None,
    )


def answer_loss(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """Return the mean cross-entropy over the batch's targets; the output head runs only there."""
    targets_BT = batch.pop("targets")
    hidden_BTD = read(model, **batch, use_cache=False).last_hidden_state
    wanted_BT = targets_BT != IGNORE_INDEX
    return prediction_loss(model, hidden_BTD[wanted_BT], targets_BT[wanted_BT])[0]


def move_questions_away(batch: Batch, *, seed: int, step: int) -> None:
    """Move the questions of half of the rows up to N_PATCHES positions further behind their context, in place.

    The contexts in the text are short, and an LLM that never saw a question far behind its context answers worse the
    more visual tokens lie between them (Zhu et al. 2023, PoSE, arXiv 2309.10400). A pure function of (seed, step).
    """
    n_rows = len(batch.segments)
    rng = np.random.default_rng([seed, step])
    gaps = rng.integers(N_PATCHES + 1, size=n_rows) * rng.integers(2, size=n_rows)
    batch.position_ids[...] += np.where(batch.segments > PREFIX, gaps[:, None], 0)


def pretrain(tokens: Path, tokenizer: Path, out: Path, *, settings: SizeSettings) -> None:
    """Train a language model of one size on tokenized text; write it, its tokenizer and `training.json` to `out`."""
    use_repeatable_arithmetic(settings.seed)
    words = load_tokenizer(tokenizer)
    config = qwen2_config(
        settings, vocab_size=len(words), pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id
    )
    model = Qwen2ForCausalLM(config)
    table = TokenTable.load(tokens)
    plan = settings.pretraining
    groups = [(plan.learning_rate, model.parameters())]
    optimizer = make_optimizer(groups, weight_decay=plan.weight_decay, beta2=plan.beta2)

    def loss_of_step(step: int) -> Tensor:
        records = records_of_step(len(table), plan.batch_size, seed=settings.seed, step=step)
        batch = make_batch(table, records, n_visual_tokens=1, pad_id=words.pad_token_id)
        move_questions_away(batch, seed=settings.seed, step=step)
        return answer_loss(model, tensors(batch))

    spent: dict[str, Any] = fit(
        model, optimizer, loss=loss_of_step, settings=plan, workspace=workspace_of(out), what="language model"
    )
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(account(settings, spent), indent=2))
    clear_workspace(out)
