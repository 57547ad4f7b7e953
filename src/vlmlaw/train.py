"""One cell's training: frozen tower (its cached features, or the images), compressor to V tokens, projector and LLM.

Where there are two stages, as in LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744), stage 1 trains compressor and projector
beside the frozen LLM, and stage 2 goes on from them with the LLM.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from vlmlaw.data.canvas import place_words
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.files import whole_file, whole_folder
from vlmlaw.hub import open_model
from vlmlaw.images import open_images
from vlmlaw.language_model import tensors
from vlmlaw.loop import account, clear_workspace, fit, make_optimizer, use_repeatable_arithmetic, workspace_of
from vlmlaw.model import VlmConfig, VlmForConditionalGeneration
from vlmlaw.packing import TokenTable, load_tokenizer, make_batch, records_of_step
from vlmlaw.processor import VlmProcessor
from vlmlaw.towers import demand_whole, load_tower, statistics_of

if TYPE_CHECKING:
    from vlmlaw.experiment import CellSettings, ComputeSettings

CONNECTOR = "connector.safetensors"


def build_vlm(language_model: Path, encoder: Path, *, settings: CellSettings) -> VlmForConditionalGeneration:
    """The cell's VLM: pretrained LLM and tower, the latter frozen; compressor and projector untrained."""
    words: Any = load_tokenizer(language_model)
    opened = open_model(encoder)
    tower, (mean, std) = load_tower(opened), statistics_of(opened)
    llm = load_language_model(language_model, settings=settings)
    config = VlmConfig(
        vision_config=tower.config,
        text_config=llm.config,
        compressor=settings.compressor,
        compressor_options=dict(settings.compressor_options),
        n_visual_tokens=settings.n_visual_tokens,
        feature_layers=list(settings.feature_layers),
        position_embedding=settings.place_embedding,
        image_token_id=words.convert_tokens_to_ids(IMAGE_PLACEHOLDER),
        image_mean=mean,
        image_std=std,
        image_fit=settings.fit,
        pad_color=list(settings.pad_color),
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    model = VlmForConditionalGeneration.assemble(config, tower, llm)
    _name_places(model, words)
    return model


def load_language_model(folder: Path, *, settings: CellSettings) -> PreTrainedModel:
    """The LLM: in float32 where it is trained, which AdamW's small steps need, else in the arithmetic's own type.

    Raises UserError where weights of it are missing.
    """
    opened = open_model(folder)
    dtype = torch.float32 if settings.trains_language_model else getattr(torch, settings.training.dtype)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        opened.folder,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=opened.trust_remote_code,
    )
    model, info = loaded
    demand_whole(opened.folder, type(model), info["missing_keys"])
    return model.requires_grad_(settings.trains_language_model)


def _name_places(model: VlmForConditionalGeneration, words: Any) -> None:
    """Start the places from the LLM's embeddings of the words for them, where it has such words."""
    place_ids = words.convert_tokens_to_ids(place_words())
    if model.places is not None and words.unk_token_id not in place_ids:
        embeddings: Any = model.get_input_embeddings().weight
        model.places.start_from(embeddings[place_ids])


def align_cell(
    language_model: Path,
    encoder: Path,
    tokens: Path,
    images: Path,
    out: Path,
    *,
    settings: CellSettings,
    compute: ComputeSettings | None = None,
) -> None:
    """Stage 1. The folder `out` gets CONNECTOR, train.jsonl and training.json."""
    use_repeatable_arithmetic(settings.seed)
    model = build_vlm(language_model, encoder, settings=settings)
    spent = _train(model, language_model, tokens, images, out, settings=settings)
    with whole_file(out / CONNECTOR) as partial:
        weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        save_file(weights, partial)
    _write_account(out, settings, spent)


def train_cell(
    language_model: Path,
    encoder: Path,
    tokens: Path,
    images: Path,
    out: Path,
    *,
    settings: CellSettings,
    compute: ComputeSettings | None = None,
    aligned: Path | None = None,
) -> None:
    """Train one cell. Its folder `out` gets model/ (weights and tokenizer), train.jsonl and training.json."""
    use_repeatable_arithmetic(settings.seed)
    model = build_vlm(language_model, encoder, settings=settings)
    if aligned is not None:
        load_connector(model, aligned)
    spent = _train(model, language_model, tokens, images, out, settings=settings)
    words = load_tokenizer(language_model)
    with whole_folder(out / "model") as folder:
        model.to(getattr(torch, settings.training.dtype)).save_pretrained(folder)
        VlmProcessor.of_model(model, words).save_pretrained(folder)
    _write_account(out, settings, spent)


def load_connector(model: VlmForConditionalGeneration, path: Path) -> None:
    """Compressor and projector from stage 1. Raises UserError where they are of another cell."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected what `vlmlaw align` writes.") from error
    own = {name: p for name, p in model.named_parameters() if name.split(".")[0] in model.connector}
    shapes, expected = ({name: tuple(p.shape) for name, p in part.items()} for part in (weights, own))
    if shapes != expected:
        wrong = sorted(name for name in {*shapes, *expected} if shapes.get(name) != expected.get(name))
        raise UserError(f"{path} is of another compressor or size: {', '.join(wrong[:3])} differ; align this cell.")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def _train(
    model: VlmForConditionalGeneration,
    language_model: Path,
    tokens: Path,
    images: Path,
    out: Path,
    *,
    settings: CellSettings,
) -> dict[str, Any]:
    """Train what is not frozen; returns what it took."""
    words, table = load_tokenizer(language_model), TokenTable.load(tokens)
    images_of = open_images(images, layers=settings.feature_layers, image_px=model.config.vision_config.image_size)
    plan = replace(settings.training, steps=settings.training.steps_of(len(table)), epochs=0.0)
    new = [p for part in model.connector.values() for p in part.parameters()]
    groups = [(plan.new_learning_rate, new), (plan.learning_rate, model.language_model.parameters())]
    optimizer = make_optimizer(groups, weight_decay=plan.weight_decay)

    def loss_of_step(step: int) -> Tensor:
        records = records_of_step(len(table), plan.batch_size, seed=settings.seed, step=step)
        batch = make_batch(
            table,
            records,
            n_visual_tokens=settings.n_visual_tokens,
            pad_id=words.pad_token_id,
            reads_question=model.compressor.needs_question,
        )
        return model(**tensors(batch), **images_of(batch.image_rows), use_cache=False).loss

    return fit(
        model,
        optimizer,
        loss_of_step=loss_of_step,
        settings=plan,
        workspace=workspace_of(out),
        what=settings.name if settings.trains_language_model else f"{settings.name}, stage 1",
    )


def _write_account(out: Path, settings: CellSettings, spent: dict[str, Any]) -> None:
    """The log, and what the training was made from and took, beside its weights; the workspace goes."""
    with whole_file(out / "train.jsonl") as partial:
        shutil.copyfile(workspace_of(out) / "train.jsonl", partial)
    with whole_file(out / "training.json") as partial:
        partial.write_text(json.dumps(account(settings, spent), indent=2))
    clear_workspace(out)
