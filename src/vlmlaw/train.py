"""One cell's training: frozen encoder (its cached features), compressor to V tokens, projector and LLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from vlmlaw.compressors import compressor_class
from vlmlaw.data.canvas import place_words
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.encoder import load_features
from vlmlaw.files import whole_file, whole_folder
from vlmlaw.language_model import tensors
from vlmlaw.loop import account, clear_workspace, fit, make_optimizer, use_repeatable_arithmetic, workspace_of
from vlmlaw.model import VlmConfig, VlmForConditionalGeneration
from vlmlaw.packing import TokenTable, load_tokenizer, make_batch, records_of_step
from vlmlaw.vision import grid_side

if TYPE_CHECKING:
    from vlmlaw.experiment import CellSettings


def build_vlm(language_model: Path, encoder: Path, *, settings: CellSettings) -> VlmForConditionalGeneration:
    """The cell's VLM: pretrained LLM and encoder, the latter frozen; compressor and projector untrained."""
    words: Any = load_tokenizer(language_model)
    vision_config = AutoConfig.from_pretrained(encoder)
    most_tokens = compressor_class(settings.compressor).allowed_tokens(grid_side(vision_config))[-1]
    config = VlmConfig(
        vision_config=vision_config,
        text_config=AutoConfig.from_pretrained(language_model),
        compressor=settings.compressor,
        compressor_options=dict(settings.compressor_options),
        n_visual_tokens=settings.n_visual_tokens or most_tokens,
        feature_layers=list(settings.feature_layers),
        position_embedding=True,
        image_token_id=words.convert_tokens_to_ids(IMAGE_PLACEHOLDER),
    )
    model = VlmForConditionalGeneration(config)
    model.language_model = AutoModelForCausalLM.from_pretrained(language_model)
    model.vision_tower = AutoModel.from_pretrained(encoder)
    model.vision_tower.requires_grad_(False)
    _name_places(model, words)
    return model


def _name_places(model: VlmForConditionalGeneration, words: Any) -> None:
    """Start the places from the LLM's embeddings of the words for them, where it has such words."""
    place_ids = words.convert_tokens_to_ids(place_words())
    if model.places is not None and words.unk_token_id not in place_ids:
        embeddings: Any = model.get_input_embeddings().weight
        model.places.start_from(embeddings[place_ids])


def train_cell(
    language_model: Path, encoder: Path, tokens: Path, features: Path, out: Path, *, settings: CellSettings
) -> None:
    """Train one cell. Its folder `out` gets model/ (weights and tokenizer), train.jsonl and training.json."""
    use_repeatable_arithmetic(settings.seed)
    model = build_vlm(language_model, encoder, settings=settings)
    words = load_tokenizer(language_model)
    table = TokenTable.load(tokens)
    features_of = load_features(features, layers=settings.feature_layers)
    plan = settings.training
    new = [p for part in (model.compressor, model.projector, model.places) if part for p in part.parameters()]
    optimizer = make_optimizer(
        [(plan.new_learning_rate, new), (plan.learning_rate, model.language_model.parameters())],
        weight_decay=plan.weight_decay,
    )

    def loss_of_step(step: int) -> Tensor:
        records = records_of_step(len(table), plan.batch_size, seed=settings.seed, step=step)
        losses = []
        for n_visual_tokens in model.compressor.tokens_of_step(step, seed=settings.seed):
            if n_visual_tokens != model.config.n_visual_tokens:
                model.set_n_visual_tokens(n_visual_tokens)
            batch = make_batch(
                table,
                records,
                n_visual_tokens=model.compressor.n_input_tokens,
                pad_id=words.pad_token_id,
                reads_question=model.reads_question,
            )
            patches = features_of(batch.image_rows)
            losses.append(model(**tensors(batch), patches=patches, use_cache=False).loss)
        return torch.stack(losses).mean()

    spent = fit(
        model,
        optimizer,
        loss_of_step=loss_of_step,
        settings=plan,
        workspace=workspace_of(out),
        what=settings.name,
    )
    if settings.n_visual_tokens is None:
        model.set_n_visual_tokens(max(model.compressor.allowed_tokens(model.compressor.grid_side)))
    with whole_folder(out / "model") as folder:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    with whole_file(out / "train.jsonl") as partial:
        shutil.copyfile(workspace_of(out) / "train.jsonl", partial)
    with whole_file(out / "training.json") as partial:
        partial.write_text(json.dumps(account(settings, spent), indent=2))
    clear_workspace(out)
