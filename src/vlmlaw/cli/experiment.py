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

    experiment = read_experiment(args.file)
    if args.json:
        print(json.dumps(as_data(experiment), indent=1))
        return
    n_cells, n_sizes = len(experiment.cells), len(experiment.sizes)
    print(f"{experiment.name}: {n_cells} cells of {n_sizes} sizes, into {experiment.results}/")
    for name, cell in experiment.cells.items():
        print(f"  {name}{'  (held out of the fit)' if cell.size == experiment.grid.held_out else ''}")
    if experiment.pretrained and experiment.compute.gpus:
        from vlmlaw.experiment.budget import describe

        print(describe(experiment))
