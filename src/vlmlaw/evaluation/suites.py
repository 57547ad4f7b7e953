"""Table of benchmarks: how the scores of each become an error in [0, 1]. docs/benchmarks.md is printed from it.

Suites are those of Li et al. 2024 (arXiv 2411.03312, 3.2 and appendix): nine benchmarks of reasoning, two of reading.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vlmlaw.errors import UserError

REASONING, READING = "reasoning", "reading"


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark: where its error comes from. `parts` are lmms-eval's scores, each with its maximum.

    The error is 1 - sum of scores / sum of maxima. `metric` names the project's own (`metrics.py`), if it has one.
    """

    title: str
    suite: str
    split: str
    source: str
    metric: str | None
    task: str  # of lmms-eval
    parts: Mapping[str, float]
    n_per_image: int = 1  # questions that are scored together
    reports_se: bool = False  # lmms-eval's standard error is of this score, on its scale
    note: str = ""
    other_tasks: tuple[str, ...] = field(default=())  # of the same layout

    def error(self, scores: Mapping[str, float]) -> float:
        """The error in [0, 1] of these scores. Raises ValueError for a score that is not between 0 and its maximum."""
        for name, most in self.parts.items():
            if not 0 <= scores[name] <= most:
                raise ValueError(f"{name} is {scores[name]}; expected a number between 0 and {most:g}")
        return 1 - sum(scores[name] for name in self.parts) / sum(self.parts.values())

    @property
    def formula(self) -> str:
        """The formula of the error in terms of the scores of lmms-eval, as text."""
        parts = " + ".join(f"`{name}`" for name in self.parts)
        whole = sum(self.parts.values())
        return f"1 - {parts if len(self.parts) == 1 else f'({parts})'}" + (f" / {whole:g}" if whole != 1 else "")


BENCHMARKS: dict[str, Benchmark] = {
    "mme": Benchmark(
        title="MME",
        suite=REASONING,
        split="test",
        source="Fu et al. 2023, arXiv 2306.13394",
        metric=None,
        task="mme",
        parts={"mme_perception_score": 2000.0, "mme_cognition_score": 800.0},
        n_per_image=2,
        note="accuracy and pair accuracy, in percent, of ten kinds of perception and four of cognition: 14 x 200",
    ),
    "gqa": Benchmark(
        title="GQA",
        suite=REASONING,
        split="testdev, balanced",
        source="Hudson & Manning 2019, arXiv 1902.09506",
        metric="exact_match",
        task="gqa",
        parts={"exact_match": 1.0},
        reports_se=True,
    ),
    "ai2d": Benchmark(
        title="AI2D",
        suite=REASONING,
        split="test",
        source="Kembhavi et al. 2016, arXiv 1603.07396",
        metric="multiple_choice",
        task="ai2d",
        parts={"exact_match": 1.0},
        reports_se=True,
    ),
    "mmbench": Benchmark(
        title="MMBench",
        suite=REASONING,
        split="dev, English",
        source="Liu et al. 2023, arXiv 2307.06281",
        metric="multiple_choice",
        task="mmbench_en_dev_static",
        parts={"gpt_eval_score": 100.0},
        note="by rules alone; `mmbench_en_dev` asks an OpenAI model to read replies, which takes a key",
        other_tasks=("mmbench_en_dev",),
    ),
    "mmmu": Benchmark(
        title="MMMU",
        suite=REASONING,
        split="validation",
        source="Yue et al. 2023, arXiv 2311.16502",
        metric="multiple_choice",
        task="mmmu_val",
        parts={"mmmu_acc": 1.0},
        note="lmms-eval also counts open questions, and guesses where it cannot read a reply",
    ),
    "scienceqa": Benchmark(
        title="ScienceQA",
        suite=REASONING,
        split="test, with image",
        source="Lu et al. 2022, arXiv 2209.09513",
        metric="multiple_choice",
        task="scienceqa_img",
        parts={"exact_match": 1.0},
        reports_se=True,
    ),
    "mathvista": Benchmark(
        title="MathVista",
        suite=REASONING,
        split="testmini",
        source="Lu et al. 2023, arXiv 2310.02255",
        metric=None,
        task="mathvista_testmini_format",
        parts={"llm_as_judge_eval": 100.0},
        note="an OpenAI model reads the replies, which takes a key",
    ),
    "pope": Benchmark(
        title="POPE",
        suite=REASONING,
        split="test, all three samplings",
        source="Li et al. 2023, arXiv 2305.10355",
        metric="pope",
        task="pope",
        parts={"pope_f1_score": 1.0},
    ),
    "chartqa": Benchmark(
        title="ChartQA",
        suite=REASONING,
        split="test, human and augmented",
        source="Masry et al. 2022, arXiv 2203.10244",
        metric="relaxed_numeric",
        task="chartqa",
        parts={"relaxed_overall": 1.0},
        reports_se=True,
    ),
    "textvqa": Benchmark(
        title="TextVQA",
        suite=READING,
        split="validation, without OCR tokens",
        source="Singh et al. 2019, arXiv 1904.08920",
        metric="vqa",
        task="textvqa_val",
        parts={"exact_match": 1.0},
        reports_se=True,
    ),
    "docvqa": Benchmark(
        title="DocVQA",
        suite=READING,
        split="validation",
        source="Mathew et al. 2020, arXiv 2007.00398",
        metric="anls",
        task="docvqa_val",
        parts={"anls": 1.0},
        reports_se=True,
    ),
}


def benchmark_of_task(task: str) -> str:
    """The name of the benchmark that a task of lmms-eval is. Raises UserError for one that the table lacks."""
    for name, benchmark in BENCHMARKS.items():
        if task in (benchmark.task, *benchmark.other_tasks):
            return name
    known = ", ".join(benchmark.task for benchmark in BENCHMARKS.values())
    raise UserError(
        f"the task {task!r} of lmms-eval is not in the table of errors; there are {known}. "
        "Say how it becomes an error by --task TASK:SUITE:SCORE:MAXIMUM, for example vqav2_val:reasoning:exact_match:1."
    )


def table_lines() -> Iterator[str]:
    """The table as Markdown, line by line."""
    yield "| benchmark | suite | split | error, of lmms-eval's task and scores | the project's own metric |"
    yield "|---|---|---|---|---|"
    for name, b in BENCHMARKS.items():
        note = f" ({b.note})" if b.note else ""
        own = f"`{b.metric}`" if b.metric else "none: use lmms-eval"
        yield f"| {b.title} (`{name}`; {b.source}) | {b.suite} | {b.split} | `{b.task}`: {b.formula}{note} | {own} |"
