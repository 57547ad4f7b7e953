"""`vlmlaw init DIR`: a folder with the workflow, from the installed package alone."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb `init`."""
    parser = subparsers.add_parser(
        "init",
        help="write the workflow and an experiment file into a folder",
        description="Write Snakefile, rules, profiles, experiments, params.yaml and dvc.yaml into a folder, so that "
        "`snakemake --cores all` runs there without a clone of the repository.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder, or one without these files")
    parser.add_argument(
        "--experiment",
        default="",
        metavar="NAME",
        help="for params.yaml: tiny, weekend, practice, paper ...; default: the miniature",
    )
    parser.set_defaults(run=run_init)


def run_init(args: argparse.Namespace) -> None:
    """Raises UserError where the folder has files of these names, or there is no such experiment."""
    from vlmlaw.workflow.new_project import write_project

    write_project(args.folder, experiment=args.experiment)
    print(f"written: {args.folder}. Next: cd {args.folder}, then `snakemake --cores all` (or --dry-run first)")
