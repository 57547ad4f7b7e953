"""Training throughput of this package, each speed-up taken away in turn, beside the Hugging Face Trainer on one model.

    python benchmarks/training_throughput.py      # on a GPU: CLIP-L/336 with Qwen2.5-0.5B; on a CPU: tiny shapes
    python benchmarks/training_throughput.py --visual-tokens 36 --stages 2 --steps 20 --json table.json

Weights, images and text are random; lengths of text are spread roughly as those of LLaVA's two data sets are. Tokens
are real ones, padding left out. MFU counts the FLOPs that the model needs over the device's measured peak. "LLM part"
reads cached patch features in the tower's place. The Trainer needs `pip install accelerate`; without it its rows are
left out.
"""

import argparse
import gc
import importlib.util
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import CLIPVisionConfig, Qwen2Config

from vlmlaw.tokens.token_table import IGNORE_INDEX, TokenTable
from vlmlaw.training.batches import StepPasses
from vlmlaw.training.distributed import Machine, join
from vlmlaw.training.loop import fit
from vlmlaw.training.optimizer import make_optimizer
from vlmlaw.training.settings import ComputeSettings, OptimizerSettings
from vlmlaw.training.sharding import prepare
from vlmlaw.training.throughput import Pass, measured_peak
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.cost import training_flops
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.towers.features import grid_side, without_unused_layers

IMAGE_TOKEN, PAD_TOKEN, FIRST_WORD = 1, 0, 2
WARM_UP_STEPS = 3
N_PICTURES = 64  # different ones; a step draws from them
MEAN_TEXT_TOKENS = {1: 40, 2: 250}  # guesses, as in the estimate of the real grid's cost
LONGEST_TEXT = 2048
IMAGE_SHARE = {1: 1.0, 2: 624_610 / 665_298}  # LLaVA-1.5's mixtures
LOG_SPREAD = 0.6  # of the logarithm of a text's length: stage 2 mixes short questions with long dialogues


@dataclass(frozen=True)
class Shape:
    """A tower and an LLM, and how much of them a benchmark runs."""

    vision: CLIPVisionConfig
    text: Qwen2Config
    visual_tokens: tuple[int, ...]
    batch_size: dict[int, int]  # by stage
    tokens_per_pass: int
    longest_text: int
    steps: int


FULL = Shape(
    vision=CLIPVisionConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        image_size=336,
        patch_size=14,
    ),
    text=Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        max_position_embeddings=32_768,
    ),
    visual_tokens=(1, 36, 576),
    batch_size={1: 256, 2: 128},
    tokens_per_pass=32_768,
    longest_text=LONGEST_TEXT,
    steps=10,
)
TINY = Shape(
    vision=CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=56, patch_size=14
    ),
    text=Qwen2Config(
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        tie_word_embeddings=True,
    ),
    visual_tokens=(1, 4, 16),
    batch_size={1: 8, 2: 8},
    tokens_per_pass=2048,
    longest_text=512,
    steps=2,
)


@dataclass(frozen=True)
class Variant:
    """What is switched off beside the full set of speed-ups."""

    name: str
    layout: str = "packed"
    compile: bool = True
    inputs_ahead: int = 4
    whole_head: bool = False
    whole_tower: bool = False
    cached: bool = False

    @property
    def needs_gpu(self) -> bool:
        """Whether what it switches off is only there on a GPU."""
        return not self.compile or self.inputs_ahead == 0


VARIANTS = (
    Variant("all speed-ups"),
    Variant("LLM part", cached=True),
    Variant("padded", layout="padded"),
    Variant("not compiled", compile=False),
    Variant("logits of every token", whole_head=True),
    Variant("tower's unused layers", whole_tower=True),
    Variant("inputs made in turn", inputs_ahead=0),
)


def random_table(n_records: int, *, stage: int, shape: Shape, seed: int = 0) -> TokenTable:
    """Dialogues of random words: half of each text is an answer."""
    generator = np.random.default_rng([seed, stage])
    mean = np.log(MEAN_TEXT_TOKENS[stage]) - LOG_SPREAD**2 / 2
    lengths = generator.lognormal(mean, LOG_SPREAD, n_records).round().clip(8, shape.longest_text).astype(np.int64)
    has_image = generator.random(n_records) < IMAGE_SHARE[stage]
    ids, targets = [], []
    for length, image in zip(lengths, has_image, strict=True):
        text = generator.integers(FIRST_WORD, shape.text.vocab_size, length)
        goal = np.full(length, IGNORE_INDEX)
        goal[length // 2 : -1] = text[length // 2 + 1 :]
        ids.append(np.concatenate([[IMAGE_TOKEN], text]) if image else text)
        targets.append(np.concatenate([[IGNORE_INDEX], goal]) if image else goal)
    return TokenTable(
        ids=np.concatenate(ids).astype(np.int32),
        targets=np.concatenate(targets).astype(np.int32),
        segments=np.ones(sum(map(len, ids)), dtype=np.int16),
        starts=np.cumsum([0, *map(len, ids)]),
        shown_images=np.flatnonzero(has_image),
        image_starts=np.concatenate([[0], np.cumsum(has_image)]),
        image_token_id=IMAGE_TOKEN,
        question_ids=np.zeros(0, dtype=np.int32),
        question_starts=np.zeros(1, dtype=np.int64),
        question_rows=np.zeros(n_records + 1, dtype=np.int64),
    )


def make_vlm(shape: Shape, n_visual_tokens: int, *, stage: int) -> VlmForConditionalGeneration:
    """Random weights; stage 1 trains the projector alone, stage 2 the LLM too."""
    torch.manual_seed(0)
    config = VlmConfig(
        vision_config=shape.vision,
        text_config=shape.text,
        compressor="average",
        n_visual_tokens=n_visual_tokens,
        feature_layers=[-2],
        image_token_id=IMAGE_TOKEN,
    )
    model = VlmForConditionalGeneration(config)
    model.vision_tower.requires_grad_(False)
    model.language_model.requires_grad_(stage == 2)
    return model


def pictures(shape: Shape, dtype: torch.dtype, *, cached: bool) -> Callable[[np.ndarray], ImageInputs]:
    """A function from image rows to pixels, or to patch features, drawn from a few random ones."""
    generator = torch.Generator().manual_seed(0)
    side, width = shape.vision.image_size, shape.vision.hidden_size
    of_one = (grid_side(shape.vision) ** 2, width) if cached else (3, side, side)
    pool = torch.randn(N_PICTURES, *of_one, generator=generator).to(dtype)
    name = "patches" if cached else "pixel_values"
    return lambda rows: ImageInputs(**({name: pool[torch.from_numpy(rows % N_PICTURES)]} if len(rows) else {}))


def trained_groups(model: VlmForConditionalGeneration) -> list[tuple[float, Any]]:
    return [(1e-4, model.projector.parameters()), (1e-5, model.language_model.parameters())]


def whole_head_loss(model: VlmForConditionalGeneration, inputs: dict[str, Any]) -> Tensor:
    """As transformers does it: logits of every token, then the loss of those with a label."""
    given = dict(inputs)
    targets = given.pop("targets")
    logits = model(**given, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)


def measure(
    shape: Shape, variant: Variant, *, n_visual_tokens: int, stage: int, steps: int, machine: Machine
) -> dict[str, Any]:
    """One row: this package's own loop on some steps, after a few to warm up."""
    on_gpu = machine.device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    compute = ComputeSettings(
        gpus=int(on_gpu),
        tokens_per_pass=shape.tokens_per_pass,
        layout=variant.layout,
        compile=variant.compile and on_gpu,
        inputs_ahead=variant.inputs_ahead if on_gpu else 0,
        deterministic=False,
        logs=(),
    )
    model = make_vlm(shape, n_visual_tokens, stage=stage)
    flops = training_flops(model, with_tower=not variant.cached)
    batch_size = shape.batch_size[stage]
    passes_of = StepPasses(
        random_table(batch_size * (steps + WARM_UP_STEPS), stage=stage, shape=shape),
        pictures(shape, dtype, cached=variant.cached),
        batch_size=batch_size,
        seed=0,
        n_visual_tokens=n_visual_tokens,
        pad_id=PAD_TOKEN,
        reads_question=False,
        compute=compute,
        machine=machine,
    )
    prepare(model, machine=machine, compute=compute, dtype=dtype)
    optimizer = make_optimizer(trained_groups(model), weight_decay=0.0, beta2=0.98)

    def loss(**inputs: Any) -> Tensor:
        return whole_head_loss(model, inputs) if variant.whole_head else model(**inputs, use_cache=False).loss

    def run(n_steps: int, passes: Callable[[int], list[Pass]]) -> dict[str, Any]:
        plan = OptimizerSettings(
            steps=n_steps, batch_size=batch_size, learning_rate=1e-5, dtype=str(dtype).removeprefix("torch.")
        )
        with tempfile.TemporaryDirectory() as folder:
            return fit(
                model,
                optimizer,
                loss=loss,
                passes_of=passes,
                flops=flops,
                settings=replace(plan, checkpoint_seconds=1e9),
                workspace=Path(folder),
                what=f"V={n_visual_tokens}, stage {stage}, {variant.name}",
                machine=machine,
                compute=compute,
            )

    layers = model.config.feature_layers
    with nullcontext() if variant.whole_tower else without_unused_layers(model.vision_tower, layers=layers):
        run(WARM_UP_STEPS, passes_of)
        spent = run(steps, lambda step: passes_of(step + WARM_UP_STEPS))
    names = ("tokens_per_second", "samples_per_second", "mfu", "fill", "last_loss", "peak_gpu_memory_mib")
    waiting = spent["input_wait_seconds"] / spent["wall_seconds"]
    return {name: spent.get(name) for name in names} | {"input_wait": waiting}


class PlainVlm(nn.Module):
    """The same model as the Trainer is usually given it: padded rows, the whole tower, transformers' own loss."""

    def __init__(self, vlm: VlmForConditionalGeneration):
        super().__init__()
        self.vlm = vlm

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, pixel_values: Tensor | None = None
    ) -> dict[str, Tensor]:
        embeds = self.vlm.embed(input_ids, ImageInputs(pixel_values=pixel_values))
        out = self.vlm.language_model(
            inputs_embeds=embeds, attention_mask=attention_mask, labels=labels, use_cache=False
        )
        return {"loss": out.loss}


class Rows(torch.utils.data.Dataset):
    """The table's records, their image token repeated V times, for transformers' collation."""

    def __init__(self, table: TokenTable, n_visual_tokens: int):
        self.table, self.n_visual_tokens = table, n_visual_tokens

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, record: int) -> dict[str, Any]:
        own = slice(self.table.starts[record], self.table.starts[record + 1])
        ids, targets = (torch.from_numpy(array[own].astype(np.int64)) for array in (self.table.ids, self.table.targets))
        labels = F.pad(targets[:-1], (1, 0), value=IGNORE_INDEX)  # transformers shifts them back
        repeats = torch.where(ids == IMAGE_TOKEN, self.n_visual_tokens, 1)
        row = int(self.table.image_rows[record])
        return {"ids": ids.repeat_interleave(repeats), "labels": labels.repeat_interleave(repeats), "row": row}


def collate(records: Sequence[dict[str, Any]], images_of: Callable[[np.ndarray], ImageInputs]) -> dict[str, Any]:
    """Rows padded on the right to the longest."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([record["ids"] for record in records], batch_first=True, padding_value=PAD_TOKEN)
    labels = pad([record["labels"] for record in records], batch_first=True, padding_value=IGNORE_INDEX)
    lengths = torch.tensor([len(record["ids"]) for record in records])
    rows = np.array([record["row"] for record in records])
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, **images_of(rows[rows >= 0]).tensors()}


def measure_trainer(
    shape: Shape, *, n_visual_tokens: int, stage: int, steps: int, machine: Machine
) -> dict[str, Any] | None:
    """The Trainer's row; None where accelerate, which it needs, is missing."""
    if importlib.util.find_spec("accelerate") is None:
        return None
    from transformers import Trainer, TrainerCallback, TrainingArguments

    on_gpu = machine.device.type == "cuda"
    batch_size = shape.batch_size[stage]
    n_each = min(batch_size, 16)  # padded logits of every token fill the memory of more
    model = make_vlm(shape, n_visual_tokens, stage=stage)
    flops = training_flops(model, with_tower=True)
    table = random_table(batch_size * (steps + WARM_UP_STEPS), stage=stage, shape=shape)
    images_of = pictures(shape, torch.float32, cached=False)
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps + WARM_UP_STEPS,
            per_device_train_batch_size=n_each,
            gradient_accumulation_steps=batch_size // n_each,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            dataloader_num_workers=4 if on_gpu else 0,
            learning_rate=1e-5,
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(
            model=PlainVlm(model),
            args=arguments,
            train_dataset=Rows(table, n_visual_tokens),
            data_collator=lambda records: collate(records, images_of),
            callbacks=[Clock()],
        )
        trainer.train()
    seconds = times[-1] - times[WARM_UP_STEPS - 1]
    lengths = np.diff(table.starts) + table.n_images * (n_visual_tokens - 1)
    share = steps / (steps + WARM_UP_STEPS)  # the order is random, so each step has the table's mean
    peak = measured_peak(machine.device, torch.bfloat16 if on_gpu else torch.float32)
    done = flops.per_token * lengths.sum() + flops.per_pair * (lengths * (lengths + 1) // 2).sum()
    done += flops.per_target * (table.targets != IGNORE_INDEX).sum() + flops.per_image * table.n_images.sum()
    return {
        "tokens_per_second": lengths.sum() * share / seconds,
        "samples_per_second": steps * batch_size / seconds,
        "mfu": done * share / seconds / peak,
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
    }


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown, each with its speed over the Trainer's on the same V and stage."""
    trainers = {(r["visual_tokens"], r["stage"]): r["tokens_per_second"] for r in rows if r["variant"] == "Trainer"}
    lines = [
        "| V | stage | variant | tokens/s | samples/s | over Trainer | MFU | fill | waiting for input | GPU GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        trainer = trainers.get((row["visual_tokens"], row["stage"]))
        cells = [
            f"{row['visual_tokens']} | {row['stage']} | {row['variant']}",
            f"{row['tokens_per_second']:,.0f} | {row['samples_per_second']:,.1f}",
            f"{row['tokens_per_second'] / trainer:.2f}" if trainer else "",
            *(
                f"{100 * row[name]:.1f} %" if row.get(name) is not None else ""
                for name in ("mfu", "fill", "input_wait")
            ),
            f"{row['peak_gpu_memory_mib'] / 1024:.1f}" if row.get("peak_gpu_memory_mib") else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=["full", "tiny"], help="default: full on a GPU, tiny on a CPU")
    parser.add_argument("--visual-tokens", type=int, nargs="+", metavar="V")
    parser.add_argument("--stages", type=int, nargs="+", choices=[1, 2], default=[1, 2])
    parser.add_argument("--steps", type=int, help="measured, after a few to warm up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, too")
    args = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available()
    shape = {"full": FULL, "tiny": TINY}[args.shape or ("full" if on_gpu else "tiny")]
    steps, rows = args.steps or shape.steps, []
    with join(ComputeSettings(gpus=int(on_gpu)), sharded=on_gpu) as machine:
        device = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
        print(f"{device}, torch {torch.__version__}, transformers {transformers.__version__}, {steps} steps a row\n")
        for n_visual_tokens in args.visual_tokens or shape.visual_tokens:
            for stage in args.stages:
                setting = {"n_visual_tokens": n_visual_tokens, "stage": stage, "steps": steps, "machine": machine}
                results = [("Trainer", measure_trainer(shape, **setting))]
                for variant in (v for v in VARIANTS if on_gpu or not v.needs_gpu):
                    gc.collect()  # the row before leaves the GPU's memory
                    results.append((variant.name, measure(shape, variant, **setting)))
                named = {"visual_tokens": n_visual_tokens, "stage": stage}
                rows += [{**named, "variant": name, **row} for name, row in results if row is not None]
    print(format_table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
