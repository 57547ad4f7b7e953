"""Which cells are compared question by question, to explain what larger LLMs and more visual tokens buy."""

from pathlib import Path

import numpy as np

from vlmlaw.evaluation.settings import ExplainedBenchmark, ExplainedCell, ExplainPlan
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.training.settings import CellSettings

RECORDS = 400  # of the test split
MOST_TOKEN_COUNTS = 4


def explain_plan(experiment: Experiment) -> ExplainPlan | None:
    """The smallest and the largest LLM at up to four V, of one compressor and seed.

    None where it is not asked for, no question's answer is known, no two sizes share two V, or a design chooses cells.
    """
    if experiment.design is not None:
        return None
    cells = _cells(experiment)
    sizes = sorted({cell.size for cell in cells}, key=experiment.n_params_estimate)
    benchmarks = _benchmarks(experiment)
    if not (experiment.report.explained and (experiment.has_test or benchmarks) and len(sizes) > 1):
        return None
    smallest, largest = ({cell.n_visual_tokens: cell for cell in cells if cell.size == size} for size in _ends(sizes))
    shared = sorted(v for v in smallest if v in largest and v is not None)
    if len(shared) < 2:
        return None
    places = np.unique(np.linspace(0, len(shared) - 1, min(len(shared), MOST_TOKEN_COUNTS)).round().astype(int))
    compared = [of_size[shared[place]] for of_size in (smallest, largest) for place in places]
    return ExplainPlan(
        n=experiment.report.explained,
        records=RECORDS,
        cells=tuple(
            ExplainedCell(
                training=experiment.training_of(cell).name, is_largest=cell.size == sizes[-1], measured=cell.measured
            )
            for cell in compared
        ),
        benchmarks=benchmarks,
        image_px=experiment.tower.image_px,
        fit=cells[0].fit,
        pad_color=cells[0].pad_color,
    )


def _benchmarks(experiment: Experiment) -> tuple[ExplainedBenchmark, ...]:
    """The benchmarks that the project itself asks: what lmms-eval logs of a question has no picture."""
    return tuple(
        ExplainedBenchmark(
            name=section.name,
            suite=experiment.benchmarks[section.name].suite,
            metric=experiment.benchmarks[section.name].metric,
            questions=section.questions,
            images=section.images or str(Path(section.questions).parent),
            instruction=experiment.benchmarks[section.name].instruction,
        )
        for section in experiment.evaluation.benchmarks
        if section.by == "vlmlaw"
    )


def _ends(sizes: list[str]) -> tuple[str, str]:
    return sizes[0], sizes[-1]


def _cells(experiment: Experiment) -> list[CellSettings]:
    """The cells of one seed of the report's compressor, or of the one with the most cells."""
    cells = list(experiment.cells.values())
    names = [cell.compressor for cell in cells]
    wanted = experiment.report.compressor or max(names, key=names.count)
    seed = min(cell.seed for cell in cells)
    return [cell for cell in cells if (cell.compressor, cell.seed) == (wanted, seed)]
