"""The cells of an experiment: every combination of its products, after a check of their compressors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.experiment.compressor_traits import Request, Traits, check_compressors
from vlmlaw.experiment.file import ExperimentFile
from vlmlaw.experiment.sections import ALL, PatchVision, Product
from vlmlaw.training.settings import CellSettings


def cells_of(experiment: ExperimentFile, traits: Mapping[str, Traits]) -> dict[str, CellSettings]:
    """Every cell by name, in the order of the file. Raises UserError for one that is listed twice or impossible."""
    training = {size: experiment.training_settings(size) for size in experiment.sizes}
    cells: dict[str, CellSettings] = {}
    for where, part in _parts(experiment):
        for compressor, own in _compressors_of(part, where).items():
            layers = experiment.layers(deep=traits[compressor].reads_all_levels)
            sizes = _sizes_of(part, experiment, where)
            for size, n_tokens, seed in product(sizes, part.visual_tokens, part.seeds):
                cell = CellSettings(
                    size=size,
                    n_visual_tokens=n_tokens,
                    compressor=compressor,
                    compressor_options=own,
                    seed=seed,
                    feature_layers=layers,
                    training=training[size],
                    validation=experiment.validation,
                    **experiment.framing,
                )
                own_training = traits[compressor].trained_with == compressor
                if cell.trains_tower and own_training and traits[compressor].before_tower:
                    raise UserError(
                        f"training.vision_learning_rate: {where} has the compressor {compressor}, which makes images "
                        "smaller before the tower, whose positions are then interpolated anew in each pass: a gradient "
                        "that GPUs do not compute to the same bits; leave out the rate, or the compressor."
                    )
                if cell.name in cells:
                    raise UserError(f"{where}: the cell {cell.name} is there twice; remove one of them.")
                cells[cell.name] = cell
    for name in experiment.grid.without:
        if cells.pop(name, None) is None:
            raise UserError(f"grid.without: there is no cell {name!r} to leave out; remove the line.")
    return cells


def traits_of(experiment: ExperimentFile) -> dict[str, Traits]:
    """Each compressor's traits by name. Raises UserError for those that cannot be."""
    requests, options = [], dict[str, Any]()
    for where, part in _parts(experiment):
        for name, own in _compressors_of(part, where).items():
            if options.setdefault(name, own) != own:
                raise UserError(
                    f"{where}: compressor {name} has the options {own} here and {options[name]} elsewhere; "
                    "a cell's name does not tell them apart, so give a compressor one set of options."
                )
            shapes = [experiment.width_and_depth(size) for size in _sizes_of(part, experiment, where)]
            request = Request(
                where=where,
                compressor=name,
                options=own,
                visual_tokens=part.visual_tokens,
                grid_side=experiment.grid_side,
                vision_width=experiment.tower.hidden_size,
                question_widths=tuple(sorted({width for width, _ in shapes})),
                n_llm_layers=min(depth for _, depth in shapes),
                n_levels=len(experiment.vision.feature_layers),
                n_multi_levels=len(experiment.vision.multi_level_layers),
                has_tower=not isinstance(experiment.vision, PatchVision),
            )
            requests.append(request)
    return check_compressors(requests)


def _parts(experiment: ExperimentFile) -> list[tuple[str, Product]]:
    """The products of cells and where in the file each stands."""
    grid = experiment.grid
    return [("grid", grid), *((f"grid.more[{i}]", part) for i, part in enumerate(grid.more))]


def _sizes_of(part: Product, experiment: ExperimentFile, where: str) -> list[str]:
    known = experiment.sizes
    return list(known) if part.sizes == ALL else _names(part.sizes, known, where=f"{where}.sizes")


def _compressors_of(part: Product, where: str) -> dict[str, dict[str, Any]]:
    """The part's compressors with their options: a list of names, or names with options."""
    given = part.compressors
    entries = list(given.items()) if isinstance(given, Mapping) else [(name, None) for name in _listed(given)]
    if not entries:
        raise UserError(f"{where}.compressors: there is none; name one, for example [block_linear].")
    if any(not isinstance(name, str) or not isinstance(options or {}, Mapping) for name, options in entries):
        raise UserError(f"{where}.compressors: found {given!r}; expected names, or names with their options.")
    return {name: dict(options or {}) for name, options in entries}


def _names(given: Any, known: Iterable[str], *, where: str) -> list[str]:
    names = [str(name) for name in _listed(given)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{where}: unknown {unknown[0]!r}; there are {', '.join(known)} (or {ALL}).")
    if not names:
        raise UserError(f"{where}: there is none; name one, or say {ALL}.")
    return names


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
