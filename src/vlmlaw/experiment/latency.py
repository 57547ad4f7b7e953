"""What the measurement of a grid's milliseconds depends on: shapes, and nothing of data, training or seeds."""

from dataclasses import fields

from vlmlaw.evaluation.settings import LatencyPlan, LatencySettings, TimedCell, TowerShape
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.hub.settings import ModelSettings, TowerSettings
from vlmlaw.training.settings import CellSettings, ShapeSettings, VisionSettings

TAKEN = [f.name for f in fields(TimedCell) if f.name != "size"]


def latency_plan(experiment: Experiment) -> LatencyPlan:
    """The measurement of every cell, each once for all seeds; as the file's section says, or as its defaults do."""
    timed = [_timed(cell) for cell in experiment.cells.values()]
    return LatencyPlan(
        latency=experiment.latency or LatencySettings(),
        vision=_tower(experiment),
        sizes={size: _language_model(experiment, size) for size in dict.fromkeys(cell.size for cell in timed)},
        cells=tuple({cell.key: cell for cell in timed}.values()),
    )


def _timed(cell: CellSettings) -> TimedCell:
    return TimedCell(size=cell.size, **{name: getattr(cell, name) for name in TAKEN})


def _tower(experiment: Experiment) -> TowerShape | TowerSettings:
    settings = experiment.encoder_settings
    if isinstance(settings, VisionSettings):
        return TowerShape(hidden_size=settings.hidden_size, num_hidden_layers=settings.num_hidden_layers)
    assert isinstance(settings, TowerSettings)
    return settings


def _language_model(experiment: Experiment, size: str) -> ShapeSettings | ModelSettings:
    settings = experiment.size_settings(size)
    if isinstance(settings, ModelSettings):
        return settings
    return ShapeSettings(**{option.name: getattr(settings, option.name) for option in fields(ShapeSettings)})
