"""Settings of evaluations: on the test split, and on each benchmark."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmlaw.hub.settings import ModelSettings, TowerSettings
from vlmlaw.settings import choice, number, passive
from vlmlaw.training.settings import ShapeSettings
from vlmlaw.vlm.cell_name import MeasuredCell

ON_A_CPU = 64  # questions at once, where the file says `auto`


@dataclass(frozen=True, kw_only=True)
class BenchmarkSection:
    """A benchmark in the file. What is not said comes from the table in `suites.py`, or from the metric.

    name: a known benchmark, or one of your own
    by: who asks and judges
    suite: what it is counted under, reasoning or reading; known for known benchmarks
    metric: how a reply is judged; known for known benchmarks
    max_new_tokens: the longest reply; null: the metric's own
    """

    name: str
    questions: str = ""  # the file of questions
    images: str = ""  # the folder of their images, or a dataset folder
    by: str = choice("vlmlaw", "lmms-eval", default="vlmlaw")
    suite: str | None = None
    metric: str | None = None
    instruction: str | None = None  # what is said after a question
    max_new_tokens: int | None = number(least=1, default=None)


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """The evaluation of a cell on one benchmark: all that it depends on, beside its questions and images."""

    name: str
    suite: str
    metric: str
    instruction: str
    max_new_tokens: int = number(least=1)
    dtype: str = choice("float32", "bfloat16", default="float32")  # replies depend on the batch in bfloat16
    batch_size: int = passive(number(least=1, default=64))


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The evaluation of a cell on the test split, and on benchmarks, which are stages of their own.

    benchmarks: further sets of questions, each a stage of its own
    benchmark_dtype: of the arithmetic on benchmarks
    """

    batch_size: int | str = number(least=1, or_word="auto", default="auto")  # auto: what a GPU holds, 64 on a CPU
    benchmarks: tuple[BenchmarkSection, ...] = passive(field(default=()))
    benchmark_dtype: str = passive(choice("float32", "bfloat16", default="float32"))


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """Milliseconds to the first token of an answer in every cell, by part; it needs shapes alone, no trained weights.

    threads: threads on a CPU
    text_tokens: text tokens of the prompt, Q
    question_tokens: of them the question alone, which compressors that read it get; null: 7, or all where there are
        fewer
    repeats: passes, of which the fastest of each part counts; fewer, at least 3, where they take longer than `seconds`
    seconds: time for the passes of one cell
    device: where to measure; a GPU is one of its own
    dtype: of the arithmetic; own: each model's
    """

    threads: int = number(least=1, default=1)
    text_tokens: int = number(least=1, default=16)
    question_tokens: int | None = number(least=1, default=None)
    repeats: int = number(least=3, default=20)
    seconds: float = number(above=0, default=60.0)
    device: str = choice("cpu", "gpu", default="cpu")
    dtype: str = choice("own", "float32", "bfloat16", default="own")


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """The shape of a vision tower that is trained here."""

    hidden_size: int = number(least=1)
    num_hidden_layers: int = number(least=1)


@dataclass(frozen=True, kw_only=True)
class TimedCell:
    """What the time of an answer depends on in a cell, beside the shapes of its tower and language model."""

    size: str
    n_visual_tokens: int = number(least=1)
    compressor: str
    compressor_options: Mapping[str, Any]
    feature_layers: tuple[int, ...]
    place_embedding: bool
    visual_span: float | None
    projector_norm: bool

    @property
    def key(self) -> str:
        """Its name: that of the cells which differ from one another by their seed alone."""
        return f"{self.size}_v{self.n_visual_tokens}_{self.compressor}"


@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """The measurement of a whole grid: how, and the shapes of tower, language models and cells."""

    latency: LatencySettings
    vision: TowerShape | TowerSettings
    sizes: Mapping[str, ShapeSettings | ModelSettings]
    cells: tuple[TimedCell, ...]


@dataclass(frozen=True, kw_only=True)
class ExplainedCell:
    """A cell whose answers are compared, the training whose weights it has, and whether its LLM is the largest one."""

    training: str
    is_largest: bool
    measured: MeasuredCell


@dataclass(frozen=True, kw_only=True)
class ExplainedBenchmark:
    """A benchmark whose evaluations say how each question was answered."""

    name: str
    suite: str
    metric: str
    questions: str
    images: str
    instruction: str  # what is said after a question


@dataclass(frozen=True, kw_only=True)
class ExplainPlan:
    """Which cells are compared, and how many questions of each suite and reason are kept.

    records: of the test split, where there is one
    image_px, fit, pad_color: how a picture of a benchmark becomes the square that the cells see
    """

    n: int = number(least=1)
    records: int = number(least=1)
    cells: tuple[ExplainedCell, ...]
    benchmarks: tuple[ExplainedBenchmark, ...] = ()
    image_px: int = number(least=1)
    fit: str
    pad_color: tuple[int, ...]
