"""`vlmlaw provenance NUMBER-or-CELL`: from a number of the report to its cell, settings, data and commit."""

import argparse
from pathlib import Path
from typing import Any

from vlmlaw.cli.arguments import go_to_root
from vlmlaw.workflow.trace import print_origin


def add_parser(subparsers: Any) -> None:
    """Add the verb `provenance`."""
    parser = subparsers.add_parser(
        "provenance",
        help="where a number, a cell or a result comes from",
        description="From a number of the report, a cell or a file of the results to the settings, data and commit.",
    )
    parser.add_argument("what", metavar="NUMBER-or-CELL", help="0.406, '40.6 %%', a cell's name or a path")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--json", action="store_true", help="print the records as they are")
    parser.set_defaults(run=run_provenance)


def run_provenance(args: argparse.Namespace) -> None:
    """Print the origin. Raises UserError where nothing in the results is called so or holds that number."""
    if not Path(args.what).exists():
        go_to_root(str(args.results))
    print_origin(args.what, args.results, as_json=args.json)
