"""Settings of trainings: the optimizer's, those of each kind of training, and how the machine is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from vlmlaw.data.framing import CLIP_GREY, FITS
from vlmlaw.errors import UserError
from vlmlaw.settings import choice, choices, later, number, passive, truth
from vlmlaw.vlm.cell_name import MeasuredCell, cell_name

ALL_LINEAR = "all-linear"  # peft's word
AUTO = "auto"  # chosen from the estimate of memory


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Settings of one AdamW run with warm-up and cosine decay, over `steps` or over `epochs` of the records.

    steps: how many optimizer steps; 0: by epochs
    epochs: how often each record is seen; 0: by steps
    batch_size: records of a step, over all GPUs
    learning_rate: the highest one, after the warm-up
    weight_decay: AdamW's, of matrices alone
    warmup_share: the share of steps over which the learning rate rises
    clip_norm: the norm that the gradient is cut to
    beta2: AdamW's decay of the mean squared gradient
    final_rate_share: the share of the highest learning rate that is left at the end
    checkpoint_seconds: seconds between checkpoints; changing it reruns nothing
    """

    steps: int = number(least=0, default=0)
    epochs: float = number(least=0, default=0.0)
    batch_size: int = number(least=1)
    learning_rate: float = number(above=0)
    weight_decay: float = number(least=0, default=0.0)
    warmup_share: float = number(least=0, most=1, default=0.05)
    clip_norm: float = number(above=0, default=1.0)
    dtype: str = choice("float32", "bfloat16", default="float32")  # of the arithmetic; weights are kept in float32
    # Of AdamW. 0.98 rather than LLaVA's 0.999, because small studies are shorter than the memory of 0.999.
    beta2: float = later(number(above=0, most=0.999999, default=0.98))
    # Of the peak learning rate, at the end of the cosine; not LLaVA's 0, with which the last steps would be wasted.
    final_rate_share: float = later(number(least=0, most=1, default=0.02))
    checkpoint_seconds: float = passive(number(above=0, default=60.0))

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0):
            raise UserError(f"found steps {self.steps} and epochs {self.epochs:g}; give one of the two.")

    def steps_of(self, n_records: int) -> int:
        """Number of optimizer steps over `n_records`; an epoch leaves out records that do not fill a batch."""
        return self.steps or max(1, round(self.epochs * max(1, n_records // self.batch_size)))


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters by peft, trained in place of the language model's own weights; defaults are LLaVA's.

    rank: peft's `r`, of each adapter
    alpha: peft's `lora_alpha`: an adapter's output is scaled by alpha / rank
    dropout: the share of an adapter's inputs that are dropped in training
    target_modules: names of layers as peft takes them, such as q_proj; all-linear: all linear layers but the head
    """

    rank: int = number(least=1, default=128)
    alpha: float = number(above=0, default=256.0)
    dropout: float = number(least=0, most=0.9, default=0.05)
    target_modules: tuple[str, ...] = (ALL_LINEAR,)

    def __post_init__(self) -> None:
        if not self.target_modules:
            raise UserError(f"target_modules is empty, so nothing would be trained; name layers, or {ALL_LINEAR}.")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(OptimizerSettings):
    """Settings of a cell's training. Untrained parts (compressor and projector) have their own learning rate.

    new_learning_rate: the highest learning rate of compressor and projector
    vision_learning_rate: the highest learning rate of the vision tower in stage 2; null: it stays frozen
    lora: train low-rank adapters instead of the language model's own weights; null: train the weights
    """

    new_learning_rate: float = number(above=0)
    # A fifth of the LLM's in LLaVA-OneVision (Li et al. 2024, arXiv 2408.03326): 2e-6 beside 1e-5.
    vision_learning_rate: float | None = later(number(above=0, default=None))
    lora: LoraSettings | None = field(default=None, metadata={"later": True})


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(OptimizerSettings):
    """Settings of stage 1, which trains compressor and projector but not the LLM; with `seed`, all seeds share it.

    seed: one stage 1 for all seeds of a cell; null: one for each
    """

    seed: int | None = number(least=0, default=None)


@dataclass(frozen=True, kw_only=True)
class VisionSettings:
    """The vision tower and its training; with a `source` other than `train` it would be loaded, not trained."""

    source: str = choice("train")
    hidden_size: int = number(least=1)
    num_hidden_layers: int = number(least=1)
    training: OptimizerSettings
    seed: int = number(least=0)


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """Pixels of patches in place of a vision tower's features."""

    image_px: int = number(least=1)
    patch_px: int = number(least=1)


@dataclass(frozen=True, kw_only=True)
class ShapeSettings:
    """Architecture of a size's language model: options of transformers' Qwen2Config under the same names.

    A line here adds an option of a size to the file, the stage and the model. Its default should be None: then
    `qwen2_config` decides, the settings' JSON leaves the option out, and sizes that do not set it keep their results.

    hidden_size: its width
    num_hidden_layers: its depth
    num_attention_heads: its heads, which divide the width
    """

    LEAVES_OUT_NONE: ClassVar[bool] = True

    hidden_size: int = number(least=1)
    num_hidden_layers: int = number(least=1)
    num_attention_heads: int = number(least=1)

    @property
    def shape(self) -> dict[str, Any]:
        """The options that are set, by name."""
        values = {option.name: getattr(self, option.name) for option in fields(ShapeSettings)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SizeSettings(ShapeSettings):
    """A language model of one size and its pretraining on text."""

    pretraining: OptimizerSettings
    seed: int = number(least=0)


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Loss on records that stage 2 does not learn from.

    records: how many of the training records are held out
    every: steps between two computations of the loss on them
    """

    records: int = number(least=1)
    every: int = number(least=1, default=100)


@dataclass(frozen=True, kw_only=True)
class CellSettings:
    """All that a training depends on besides its inputs. Without V, the training serves every V."""

    size: str
    n_visual_tokens: int | None
    compressor: str
    compressor_options: Mapping[str, Any]
    seed: int
    feature_layers: tuple[int, ...]
    training: TrainingSettings
    fit: str = choice(*FITS, default="stretch")  # how an image becomes a square
    pad_color: tuple[int, ...] = number(least=0, most=255, default=CLIP_GREY)
    place_embedding: bool = True  # whether visual tokens carry an embedding of their place in the image
    trains_language_model: bool = True  # False in stage 1
    visual_span: float | None = number(above=0, default=None)  # positions that an image's tokens share
    projector_norm: bool = later(field(default=True))  # whether a LayerNorm stands before the projector
    max_tokens: int | None = later(number(least=8, default=None))  # of a record, V included; what is beyond is cut off
    validation: ValidationSettings | None = field(default=None, metadata={"later": True})

    @property
    def name(self) -> str:
        return cell_name(self.size, self.n_visual_tokens, self.compressor, self.seed)

    @property
    def trains_tower(self) -> bool:
        """Whether the vision tower is trained, at a rate of its own."""
        return self.training.vision_learning_rate is not None

    @property
    def measured(self) -> "MeasuredCell":
        """The identity of this cell in its evaluations."""
        assert self.n_visual_tokens is not None
        return MeasuredCell(
            size=self.size,
            n_visual_tokens=self.n_visual_tokens,
            compressor=self.compressor,
            compressor_options=self.compressor_options,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """How jobs use the machine. Changing it reruns nothing: results change by rounding at most.

    With several GPUs a training has one process for each, and they share the model (FSDP2) and the batch.

    gpus: GPUs of a training; 0: it runs on the CPU
    threads: CPU threads of a job
    tokens_per_pass: of one forward and backward pass; null: the whole batch; auto: what the estimate of memory allows
    recompute: whether activations are recomputed in the backward pass; auto: if the estimate of memory requires it
    logs: where curves of a training go, beside its own train.jsonl
    """

    gpus: int = number(least=0, default=0)
    processes: int = number(least=0, default=0)  # of a training; 0: one for each GPU, or one
    threads: int = number(least=1, default=1)
    tokens_per_pass: int | str | None = number(least=1, or_word=AUTO, default=AUTO)
    layout: str = choice("packed", "padded", default="packed")  # of dialogues: one behind the other, or a row each
    # Recomputing takes less memory and a third more FLOPs.
    recompute: bool | str = truth(or_word=AUTO, default=AUTO)
    compile: bool = False  # compile the LLM's layers by torch.compile; pays on a GPU for long trainings
    deterministic: bool = True  # reproduce results bit for bit; slower on a GPU
    inputs_ahead: int = number(least=0, default=0)  # threads that make the next batches during a step
    peak_tflops: float = number(above=0, default=989.0)  # of a GPU in bf16, dense (H100 and H200 data sheet)
    utilisation: float = number(above=0, most=1, default=0.4)  # of that peak; both for estimates only
    logs: tuple[str, ...] = choices("tensorboard", "wandb", "dvclive", default=("tensorboard",))
    gpu_memory_gb: float = number(above=0, default=80.0)  # of each GPU; trainings that need more request more GPUs
    max_minutes: int = number(least=1, default=24 * 60)  # that a cluster grants a job; trainings go on in the next
    max_memory_mb: int = number(least=1, default=500_000)  # of a node

    @property
    def n_processes(self) -> int:
        return self.processes or max(self.gpus, 1)
