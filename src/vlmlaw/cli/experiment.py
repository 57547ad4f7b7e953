"""`vlmlaw experiment check`: what an experiment file makes, or what is wrong with it."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb `experiment`."""
    experiment = subparsers.add_parser("experiment", help="check an experiment file and list its cells")
    verbs = experiment.add_subparsers(dest="experiment_verb", metavar="VERB", required=True)
    check = verbs.add_parser(
        "check",
        help="list what the file makes, or say what is wrong with it",
        description="List the cells that an experiment file makes and the GPU-hours they take, or say what is wrong.",
    )
    check.add_argument("file", nargs="?", default="params.yaml", metavar="FILE", help="default: params.yaml")
    check.add_argument("--json", action="store_true", help="print the resolved experiment")
    check.set_defaults(run=run_experiment)


def run_experiment(args: argparse.Namespace) -> None:
    """Print what an experiment file makes; a UserError says what is wrong with it."""
    import json

    from vlmlaw.experiment.experiment import read_experiment
    from vlmlaw.settings import as_data

    catalogue = _catalogue(args.file)
    if catalogue is not None:
        asked = ", ".join(one.name for one in catalogue.evaluation.benchmarks)
        if args.json:
            print(json.dumps(as_data(catalogue), indent=1))
            return
        n_models = len(catalogue.models)
        print(
            f"{catalogue.name}: {len(catalogue.cells)} cells of {n_models} models, {asked}, into {catalogue.results}/"
        )
        print("\n".join(f"  {name}" for name in catalogue.cells))
        return
    experiment = read_experiment(args.file)
    if args.json:
        print(json.dumps(as_data(experiment), indent=1))
        return
    n_cells, n_sizes = len(experiment.cells), len(experiment.sizes)
    print(f"{experiment.name}: {n_cells} cells of {n_sizes} sizes, into {experiment.results}/")
    for name, cell in experiment.cells.items():
        print(f"  {name}{'  (held out of the fit)' if cell.size == experiment.grid.held_out else ''}")
    if experiment.design is not None:
        design = experiment.design
        print(f"  of these the design chooses, until {design.until} is known, with a budget of {design.budget}")
    if experiment.pretrained and experiment.compute.gpus:
        from vlmlaw.experiment.budget import describe

        print(describe(experiment))


def _catalogue(path: str) -> Any:
    """The experiment of a file with `models:`; None for another."""
    from pathlib import Path

    from vlmlaw.experiment.catalogue import MODELS, Catalogue
    from vlmlaw.experiment.yaml_file import read_yaml

    content = read_yaml(Path(path)) if Path(path).is_file() else None
    return Catalogue.from_mapping(content, source=path) if isinstance(content, dict) and MODELS in content else None
