"""Train one cell: tower (its cached features, or the images), compressor to V tokens, projector and LLM.

With two stages, as in LLaVA-1.5 (Liu et al. 2023, arXiv 2310.03744), stage 1 trains compressor and projector beside the
frozen LLM, and stage 2 continues from them with the LLM. The tower is frozen, or trained in stage 2 at a rate of its
own.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from vlmlaw.compressors import compressor_class
from vlmlaw.data.miniature.canvas import place_words
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.hub.pins import open_model, origins_of
from vlmlaw.runtime.loggers import keep_logs
from vlmlaw.runtime.whole_files import refused_if_damaged, whole_file, whole_folder
from vlmlaw.runtime.workspace import clear_workspace, workspace_of
from vlmlaw.tokens.token_table import TokenTable, load_tokenizer
from vlmlaw.training.adapter import Adapter
from vlmlaw.training.batches import StepPasses
from vlmlaw.training.distributed import Machine, is_first_launched, join
from vlmlaw.training.forward_check import check_forward, choose_layout
from vlmlaw.training.loop import fit
from vlmlaw.training.optimizer import make_optimizer
from vlmlaw.training.passes import PassLimit, described, plan_passes
from vlmlaw.training.records import records_of
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.training.sharding import gathered, prepare, reshard, save_whole
from vlmlaw.training.validation import validation_of
from vlmlaw.training.workspace import account, use_repeatable_arithmetic
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.cost import training_flops
from vlmlaw.vlm.images import are_features, open_images
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.processor import VlmProcessor
from vlmlaw.vlm.towers.features import grid_side, without_unused_layers
from vlmlaw.vlm.towers.load import load_tower, require_complete, statistics_of

if TYPE_CHECKING:
    from vlmlaw.training.settings import CellSettings

CONNECTOR, ADAPTER = "connector.safetensors", "adapter"


def build_vlm(language_model: Path, encoder: Path, *, settings: CellSettings) -> VlmForConditionalGeneration:
    """Build the cell's VLM: pretrained LLM and tower, untrained compressor and projector.

    A frozen tower keeps its own dtype. A trained one is in float32, and in the finished cell in the training's dtype.
    """
    words: Any = load_tokenizer(language_model)
    opened = open_model(encoder)
    tower = load_tower(opened, dtype=torch.float32 if settings.trains_tower else None)
    vision_dtype = settings.training.dtype if settings.trains_tower else str(tower.dtype).removeprefix("torch.")
    mean, std = statistics_of(opened)
    llm = load_language_model(language_model, settings=settings)
    config = VlmConfig(
        vision_config=tower.config,
        text_config=llm.config,
        compressor=settings.compressor,
        compressor_options=dict(settings.compressor_options),
        n_visual_tokens=settings.n_visual_tokens or _most_tokens(settings.compressor, tower.config),
        feature_layers=list(settings.feature_layers),
        position_embedding=settings.place_embedding,
        visual_span=settings.visual_span,
        projector_norm=settings.projector_norm,
        image_token_id=words.convert_tokens_to_ids(IMAGE_PLACEHOLDER),
        image_mean=mean,
        image_std=std,
        image_fit=settings.fit,
        pad_color=list(settings.pad_color),
        vision_dtype=vision_dtype,
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    model = VlmForConditionalGeneration.assemble(config, tower, llm)
    _name_places(model, words)
    if settings.trains_tower:
        model.unfreeze_tower()
    return model


def load_language_model(folder: Path, *, settings: CellSettings) -> PreTrainedModel:
    """Load the LLM: in float32 if it is trained, which AdamW's small steps need, else in the arithmetic's dtype.

    With `lora` it is frozen as well, and an `Adapter` is trained beside it. Of several processes the first loads the
    weights and `prepare` passes them on; the others have only shapes.

    Raises UserError if some of its weights are missing.
    """
    opened = open_model(folder)
    trained = settings.trains_language_model and settings.training.lora is None
    dtype = torch.float32 if trained else getattr(torch, settings.training.dtype)
    if not is_first_launched():
        with refused_if_damaged(opened.folder, "a language model"), torch.device("meta"):
            options: dict[str, Any] = {"trust_remote_code": opened.trust_remote_code}
            shape = AutoConfig.from_pretrained(opened.folder, **options)
            return AutoModelForCausalLM.from_config(shape, dtype=dtype, **options).requires_grad_(trained)
    with refused_if_damaged(opened.folder, "a language model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            opened.folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=opened.trust_remote_code,
        )
    model, info = loaded
    require_complete(opened.folder, type(model), info["missing_keys"])
    return model.requires_grad_(trained)


def _name_places(model: VlmForConditionalGeneration, words: Any) -> None:
    """Initialise the place embeddings with the LLM's embeddings of the words for places, if it has such words."""
    place_ids = words.convert_tokens_to_ids(place_words())
    if model.places is not None and words.unk_token_id not in place_ids:
        embeddings: Any = model.get_input_embeddings().weight
        if embeddings.is_meta:
            return  # the first process passes them on
        model.places.start_from(embeddings[place_ids])


Save = Callable[[VlmForConditionalGeneration, Path, Machine], None]


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
    """Train stage 1 of a cell, and write CONNECTOR, train.jsonl and training.json to the folder `out`.

    If several processes train, each must call this.
    """
    compute = compute or ComputeSettings(logs=())
    use_repeatable_arithmetic(settings.seed, deterministic=compute.deterministic)
    model = build_vlm(language_model, encoder, settings=settings)

    def save(model: VlmForConditionalGeneration, out: Path, machine: Machine) -> None:
        weights = gathered(model, machine, names={name for name, p in model.named_parameters() if p.requires_grad})
        if machine.is_first:
            with whole_file(out / CONNECTOR) as partial:
                save_file({name: weight.contiguous() for name, weight in weights.items()}, partial)

    origins = origins_of(language_model=language_model, vision_tower=encoder)
    _train(model, language_model, tokens, images, out, settings=settings, compute=compute, save=save, origins=origins)


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
    """Train one cell, and write model/ (weights and processor), train.jsonl and training.json to its folder `out`.

    With `lora` the weights are merged, and adapter/ holds the adapter alone in peft's layout.
    If several processes train, each must call this.
    """
    compute = compute or ComputeSettings(logs=())
    use_repeatable_arithmetic(settings.seed, deterministic=compute.deterministic)
    model = build_vlm(language_model, encoder, settings=settings)
    if aligned is not None:
        load_connector(model, aligned)
    origins = origins_of(language_model=language_model, vision_tower=encoder)
    adapter = None
    if settings.training.lora is not None:
        base = origins.get("language_model", {}).get("source", str(language_model))
        adapter = Adapter(
            model.language_model, settings.training.lora, folder=out / ADAPTER, base=base, empty=not is_first_launched()
        )

    def save(model: VlmForConditionalGeneration, out: Path, machine: Machine) -> None:
        with whole_folder(out / "model") if machine.is_first else nullcontext(out) as folder:
            dtype = getattr(torch, settings.training.dtype)
            save_whole(model, folder, machine=machine, dtype=dtype, adapter=adapter)
            if machine.is_first:
                if adapter is None:
                    shutil.rmtree(out / ADAPTER, ignore_errors=True)  # of an earlier training
                VlmProcessor.of_model(model, load_tokenizer(language_model)).save_pretrained(folder)

    _train(model, language_model, tokens, images, out, settings=settings, compute=compute, save=save, origins=origins)


def _most_tokens(compressor: str, vision_config: Any) -> int:
    """Return the V with which a model is saved whose training serves every V: the largest."""
    return compressor_class(compressor).allowed_tokens(grid_side(vision_config))[-1]


def load_connector(model: VlmForConditionalGeneration, path: Path) -> None:
    """Load compressor and projector from stage 1. Raises UserError if they belong to another cell."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected what `vlmlaw align` writes.") from error
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}  # all that stage 1 saves
    own = {name: p for name, p in trained.items() if name.split(".")[0] in model.connector}
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
    compute: ComputeSettings,
    save: Save,
    origins: Mapping[str, Mapping[str, str]],
) -> None:
    """Train what is not frozen, save it, and write the training's origins, time and memory."""
    words = load_tokenizer(language_model)
    table, validated = records_of(tokens, model, words, settings=settings)
    plan = replace(settings.training, steps=settings.training.steps_of(len(table)), epochs=0.0)
    dtype = getattr(torch, plan.dtype)
    with join(compute, sharded=dtype != torch.float32) as machine:
        passes_of = _passes(
            model, table, images, settings=settings, pad_id=words.pad_token_id, compute=compute, machine=machine
        )
        what = settings.name if settings.trains_language_model else f"{settings.name}, stage 1"
        limit = _choose_passes(model, passes_of, workspace_of(out), settings=settings, compute=compute, machine=machine)
        compute = limit.compute
        choose_layout(model, passes_of, what=what, machine=machine)
        flops = training_flops(model, with_tower=not are_features(images))
        prepare(model, machine=machine, compute=compute, dtype=dtype)
        torch.manual_seed(settings.seed + machine.rank)  # dropout draws anew in each process
        new = [p for part in model.connector.values() for p in part.parameters()]
        groups = [(plan.new_learning_rate, new), (plan.learning_rate, model.language_model.parameters())]
        if plan.vision_learning_rate is not None:
            groups.append((plan.vision_learning_rate, model.vision_tower.parameters()))
        with without_unused_layers(model.vision_tower, layers=settings.feature_layers):
            check_forward(model, passes_of, what=what, machine=machine, dtype=dtype)
            reshard(model)
            spent = fit(
                model,
                make_optimizer(groups, weight_decay=plan.weight_decay, beta2=plan.beta2),
                loss=lambda **inputs: model(**inputs, use_cache=False).loss,
                passes_of=passes_of,
                halve=lambda: limit.keep(passes_of.halve()),
                validate=validation_of(model, validated, passes_of, settings=settings, machine=machine),
                flops=flops,
                settings=plan,
                workspace=workspace_of(out),
                what=what,
                machine=machine,
                compute=compute,
            )
        save(model, out, machine)
        if machine.is_first:
            keep_logs(workspace_of(out), out)
            with whole_file(out / "training.json") as partial:
                made = account(settings, spent) | {"origins": origins, "compute": asdict(compute)}
                partial.write_text(json.dumps(made, indent=2))
            clear_workspace(out)


def _passes(
    model: VlmForConditionalGeneration,
    table: TokenTable,
    images: Path,
    *,
    settings: CellSettings,
    pad_id: int,
    compute: ComputeSettings,
    machine: Machine,
) -> StepPasses:
    """Return the passes of every step over the records of `table`, at the V of the cell or, if elastic, of the step."""
    tokens_of_step = functools.partial(
        model.compressor.tokens_of_step, seed=settings.seed, aligning=not settings.trains_language_model
    )
    return StepPasses(
        table,
        open_images(images, layers=settings.feature_layers, image_px=model.config.vision_config.image_size),
        batch_size=settings.training.batch_size,
        seed=settings.seed,
        n_visual_tokens=model.config.n_visual_tokens,
        tokens_of_step=tokens_of_step if settings.n_visual_tokens is None else None,
        pad_id=pad_id,
        reads_question=model.reads_question,
        compute=compute,
        machine=machine,
    )


def _choose_passes(
    model: VlmForConditionalGeneration,
    passes_of: StepPasses,
    workspace: Path,
    *,
    settings: CellSettings,
    compute: ComputeSettings,
    machine: Machine,
) -> PassLimit:
    """Resolve `auto` by the estimate of memory or an earlier attempt's limit, and print the choice on a GPU."""
    memory_gb = compute.gpu_memory_gb
    if machine.device.type == "cuda":
        memory_gb = min(memory_gb, torch.cuda.get_device_properties(machine.device).total_memory / 1e9)
    plan = plan_passes(
        settings,
        passes_of.records(),
        text=model.config.text_config,
        vision=model.config.vision_config,
        compute=compute,
        n_processes=machine.n_processes,
        memory_gb=memory_gb,
    )
    limit = PassLimit(workspace, plan.of(compute))
    passes_of.tokens_per_pass = limit.tokens_per_pass
    if machine.is_first and compute.gpus:
        print(f"{settings.name}: {described(plan)}.", file=sys.stderr)
    return limit
