"""One cell's training: frozen encoder (its cached features), compressor to V tokens, projector and LLM."""

from __future__ import annotations

import functools
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from vlmlaw.batches import StepPasses
from vlmlaw.compressors import compressor_class
from vlmlaw.cost import training_flops
from vlmlaw.data.canvas import place_words
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.encoder import load_features
from vlmlaw.files import whole_file, whole_folder
from vlmlaw.logs import keep_logs
from vlmlaw.loop import account, clear_workspace, fit, make_optimizer, use_repeatable_arithmetic, workspace_of
from vlmlaw.machine import join
from vlmlaw.model import VlmConfig, VlmForConditionalGeneration
from vlmlaw.packing import TokenTable, load_tokenizer
from vlmlaw.prepare import prepare, save_whole
from vlmlaw.stage_settings import ComputeSettings
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
    language_model: Path,
    encoder: Path,
    tokens: Path,
    features: Path,
    out: Path,
    *,
    settings: CellSettings,
    compute: ComputeSettings | None = None,
) -> None:
    """Train one cell. Its folder `out` gets model/ (weights and tokenizer), train.jsonl and training.json.

    Where several processes train, each calls it.
    """
    compute, plan = compute or ComputeSettings(logs=()), settings.training
    dtype = getattr(torch, plan.dtype)
    use_repeatable_arithmetic(settings.seed, deterministic=compute.deterministic)
    model = build_vlm(language_model, encoder, settings=settings)
    serves_any_v, most_tokens = settings.n_visual_tokens is None, model.config.n_visual_tokens
    tokens_of_step = functools.partial(model.compressor.tokens_of_step, seed=settings.seed)
    words = load_tokenizer(language_model)
    features_of = load_features(features, layers=settings.feature_layers)
    with join(compute, sharded=dtype != torch.float32) as machine:
        passes_of = StepPasses(
            TokenTable.load(tokens),
            lambda rows: {"patches": features_of(rows)},
            batch_size=plan.batch_size,
            seed=settings.seed,
            n_visual_tokens=model.config.n_visual_tokens,
            tokens_of_step=tokens_of_step if serves_any_v else None,
            pad_id=words.pad_token_id,
            reads_question=model.reads_question,
            compute=compute,
            machine=machine,
        )
        flops = training_flops(model, with_tower=False)
        prepare(model, machine=machine, compute=compute, dtype=dtype, packed=passes_of.packed)
        new = [p for part in (model.compressor, model.projector, model.places) if part for p in part.parameters()]
        optimizer = make_optimizer(
            [(plan.new_learning_rate, new), (plan.learning_rate, model.language_model.parameters())],
            weight_decay=plan.weight_decay,
        )
        spent = fit(
            model,
            optimizer,
            loss=lambda **inputs: model(**inputs, use_cache=False).loss,
            passes_of=passes_of,
            flops=flops,
            settings=plan,
            workspace=workspace_of(out),
            what=settings.name,
            machine=machine,
            compute=compute,
        )
        if serves_any_v:
            model.set_n_visual_tokens(most_tokens)  # wherever the last step left it
        with whole_folder(out / "model") if machine.is_first else nullcontext(out) as folder:
            save_whole(model, folder, machine=machine, dtype=dtype)
            if machine.is_first:
                words.save_pretrained(folder)
        if machine.is_first:
            keep_logs(workspace_of(out), out)
            with whole_file(out / "training.json") as partial:
                partial.write_text(json.dumps(account(settings, spent), indent=2))
            clear_workspace(out)
