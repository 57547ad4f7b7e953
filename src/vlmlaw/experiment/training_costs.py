"""What each training of an experiment costs, for designs: in GPU-hours where they can be told, else as a share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmlaw.data.settings import LlavaData
from vlmlaw.experiment.checks import counts_gpu_hours

if TYPE_CHECKING:
    from vlmlaw.experiment.experiment import Experiment
    from vlmlaw.training.settings import CellSettings

HOURS, SHARE = "GPU-hours", "of the grid's cost"
STAGE_1 = "stage 1 of "


def relative_cost(experiment: Experiment, training: CellSettings) -> float:
    """Parameters x tokens of a record x records that a training sees; one for every V counts at all patches."""
    data = experiment.data
    n_text_tokens = data.whole("train").text_tokens if isinstance(data, LlavaData) else 8 * data.questions_per_image
    n_records = (data.whole("train").records or 1) if isinstance(data, LlavaData) else data.images["train"]
    n_seen = training.training.steps_of(n_records) * training.training.batch_size
    n_visual_tokens = training.n_visual_tokens or experiment.grid_side**2
    return experiment.n_params_estimate(training.size) * (n_visual_tokens + n_text_tokens) * n_seen


def training_costs(experiment: Experiment) -> tuple[dict[str, float], str]:
    """The cost of each training, and of each stage 1 under its own name, and the unit.

    Hours assume compute.utilisation, whatever finished trainings reached: what is planned from them must not change
    while it is carried out.
    """
    if counts_gpu_hours(experiment):
        from vlmlaw.experiment.budget import training_flops

        compute, flops = experiment.compute, training_flops(experiment)
        an_hour = compute.peak_tflops * 1e12 * compute.utilisation * 3600
        costs = {name: value / an_hour for name, value in flops["train"].items()}
        return costs | {STAGE_1 + name: value / an_hour for name, value in flops["align"].items()}, HOURS
    costs = {name: relative_cost(experiment, training) for name, training in experiment.trainings.items()}
    whole = sum(costs.values())
    return {name: cost / whole for name, cost in costs.items()}, SHARE


def trainings_of(experiment: Experiment, cell: CellSettings) -> list[str]:
    """The names, as `training_costs` has them, of all that is trained for a cell."""
    training = experiment.training_of(cell)
    stage_1 = experiment.stage_1_of(training) if training.name in experiment.trainings else None
    return [training.name, *([STAGE_1 + stage_1.name] if stage_1 is not None else [])]
