"""Checks across the sections of an experiment file, which must fit together."""

from __future__ import annotations

from vlmlaw.data.settings import DataSettings, LlavaData
from vlmlaw.errors import UserError
from vlmlaw.experiment.file import SPLITS, ExperimentFile
from vlmlaw.experiment.path_checks import check_paths
from vlmlaw.experiment.sections import LoadedSize, LoadedVision, PatchVision, SizeSection

TEMPLATES = ("chatml", "model")


def check_sections(experiment: ExperimentFile, source: str) -> None:
    """Check that the sections fit together. Raises UserError that names the place in the file."""
    check_paths(experiment, source)
    _check_data(experiment, source)
    _check_kinds(experiment, source)
    _check_sizes(experiment, source)
    _check_layers(experiment, source)
    _check_tower_training(experiment, source)
    _check_law(experiment, source)
    _check_design(experiment, source)
    if experiment.grid.held_out is not None and experiment.grid.held_out not in experiment.sizes:
        raise UserError(
            f"{source}.grid.held_out: no size is called {experiment.grid.held_out!r}; there are "
            f"{', '.join(experiment.sizes)}."
        )


def _check_data(experiment: ExperimentFile, source: str) -> None:
    data = experiment.data
    if isinstance(data, DataSettings):
        if set(data.images) != set(SPLITS):
            found = ", ".join(data.images) or "nothing"
            raise UserError(f"{source}.data.images: found {found}; expected {', '.join(SPLITS)}.")
        if data.text is None:
            raise UserError(f"{source}.data: text is missing; the miniature's language models are pretrained on it.")
        return
    if not data.test and not experiment.evaluation.benchmarks:
        raise UserError(
            f"{source}: nothing would be measured; name a suite with its conversations in data.test, or benchmarks in "
            "evaluation.benchmarks."
        )
    if len(data.pad_color) != 3:
        raise UserError(f"{source}.data.pad_color: found {list(data.pad_color)}; expected red, green and blue.")
    if data.chat_template not in TEMPLATES and not data.chat_template.endswith(".jinja"):
        expected = ", ".join(TEMPLATES)
        raise UserError(
            f"{source}.data.chat_template: found {data.chat_template!r}; expected {expected} or a .jinja file."
        )


def _check_kinds(experiment: ExperimentFile, source: str) -> None:
    """The miniature makes everything; LLaVA's data go with loaded models. One without the other has no tokens."""
    if isinstance(experiment.data, LlavaData):
        wrong = [f"sizes.{name}" for name, size in experiment.sizes.items() if not isinstance(size, LoadedSize)]
        wrong += [] if isinstance(experiment.vision, LoadedVision) else ["vision"]
        if wrong:
            raise UserError(
                f"{source}.{wrong[0]}: with data of the source llava, `source` must be an id of the hub or a folder."
            )
        if (experiment.alignment is None) != (experiment.data.align is None):
            raise UserError(
                f"{source}: `alignment` (stage 1) and `data.align` (its data) go together; give both or none."
            )
        if experiment.grid.pretrain_each_seed:
            raise UserError(
                f"{source}.grid.pretrain_each_seed: loaded language models are not pretrained here; leave it out."
            )
        return
    wrong = [f"sizes.{name}" for name, size in experiment.sizes.items() if isinstance(size, LoadedSize)]
    wrong += ["vision"] if isinstance(experiment.vision, LoadedVision) else []
    wrong += [] if experiment.alignment is None else ["alignment"]
    if wrong:
        raise UserError(f"{source}.{wrong[0]}: loaded models and stage 1 need data of the source llava, not miniature.")


def _check_sizes(experiment: ExperimentFile, source: str) -> None:
    if not experiment.sizes:
        raise UserError(f"{source}.sizes: there is none; add a line such as 84k: {{hidden_size: 48, ...}}.")
    for name, section in experiment.sizes.items():
        experiment.size_settings(name)
        experiment.training_settings(name)
        experiment.alignment_settings(name)
        if isinstance(section, SizeSection) and section.hidden_size % section.num_attention_heads:
            fitting = [n for n in range(1, 65) if section.hidden_size % n == 0]
            raise UserError(
                f"{source}.sizes.{name}: {section.num_attention_heads} heads do not divide hidden_size "
                f"{section.hidden_size}; {', '.join(map(str, fitting))} would."
            )


def _check_layers(experiment: ExperimentFile, source: str) -> None:
    if isinstance(experiment.vision, PatchVision):
        return  # the one level there is
    n_states = experiment.tower.num_hidden_layers + 1
    for key in ("feature_layers", "multi_level_layers"):
        layers = getattr(experiment.vision, key)
        wrong = [layer for layer in layers if not -n_states <= layer < n_states]
        if wrong or not layers:
            raise UserError(
                f"{source}.vision.{key}: found {list(layers)}; the tower's hidden states are 0 to {n_states - 1} "
                f"(or -{n_states} to -1, counted from the end). Name at least one."
            )


def _check_tower_training(experiment: ExperimentFile, source: str) -> None:
    trained = [name for name in experiment.sizes if experiment.training_settings(name).vision_learning_rate is not None]
    if not trained or not experiment.caches_features:
        return
    if isinstance(experiment.vision, LoadedVision):
        why = "vision.cache_features has the tower run once for all cells; set it to false, or leave out the rate"
    elif isinstance(experiment.vision, PatchVision):
        why = "vision.source patches has no tower; leave out the rate, or load a tower"
    else:
        why = "the miniature's tower runs once for all cells; leave out the rate, or load a tower"
    raise UserError(f"{source}.training.vision_learning_rate: found it for size {trained[0]}, and {why}.")


def _check_design(experiment: ExperimentFile, source: str) -> None:
    if experiment.design is None or experiment.design.limit[1] != "h" or counts_gpu_hours(experiment):
        return
    raise UserError(
        f"{source}.design.budget: found {experiment.design.budget}, and no GPU-hours can be estimated: that needs "
        "pretrained models, compute.gpus and `records` of data.train (and data.align). Give a share of the grid's "
        "cost, as in 10%, or add what is missing."
    )


def counts_gpu_hours(experiment: ExperimentFile) -> bool:
    """Whether the cost of a training can be told in GPU-hours."""
    data = experiment.data
    if not isinstance(data, LlavaData) or not experiment.compute.gpus:
        return False
    return all(data.whole(split).records for split in ("align", "train") if data.files(split))


def _check_law(experiment: ExperimentFile, source: str) -> None:
    from vlmlaw.laws.options import LawOptions

    try:
        LawOptions.from_mapping(experiment.law)
    except UserError as error:
        raise UserError(f"{source}.law: {error}") from error
