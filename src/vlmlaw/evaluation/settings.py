"""Settings of evaluations: on the test split, and on each benchmark."""

from dataclasses import dataclass, field

from vlmlaw.settings import choice, number, passive

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
