"""`vlmlaw status` and `vlmlaw orphans`: how far a grid is, and jobs that a lost run left behind."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlmlaw.cli.arguments import go_to_root
from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.workflow.head import run_orphans as run_orphans_of
from vlmlaw.workflow.status import grid_status, status_text


def add_parsers(subparsers: Any) -> None:
    """Add the verbs `status` and `orphans`."""
    status = subparsers.add_parser("status", help="how far a grid is: cells done, running, failed, hours used and left")
    status.add_argument("file", nargs="?", default="params.yaml", help="the experiment; default: params.yaml")
    status.add_argument("--json", action="store_true", help="every cell, for programs")
    status.set_defaults(run=run_status)
    orphans = subparsers.add_parser("orphans", help="jobs of a run that was killed: here, or in Slurm's queue")
    orphans.add_argument("file", nargs="?", default="params.yaml", help="the experiment; default: params.yaml")
    orphans.add_argument("--wait", action="store_true", help="until they have finished")
    orphans.add_argument("--cancel", action="store_true", help="end them; trainings keep their checkpoints")
    orphans.set_defaults(run=run_orphans)


def run_status(args: argparse.Namespace) -> None:
    go_to_root(args.file)
    status = grid_status(read_experiment(args.file))
    print(json.dumps(asdict(status), indent=1) if args.json else status_text(status))


def run_orphans(args: argparse.Namespace) -> None:
    go_to_root(args.file)
    experiment = Path(args.file)
    results = read_experiment(experiment).results if experiment.exists() or args.file != "params.yaml" else "results"
    run_orphans_of(Path(results), cancel=args.cancel, wait=args.wait)
