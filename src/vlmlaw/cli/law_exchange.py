"""`vlmlaw law import` and `vlmlaw law publish`: other people's results in, a grid of one's own out."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmlaw.cli.values import pairs, points
from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import whole_file


def add_import(verbs: Any) -> None:
    """Add the verb `law import`."""
    verb = verbs.add_parser(
        "import",
        help="make a table of results of lmms-eval, VLMEvalKit or Every Eval Ever",
        description="Read a folder of results, map each model to N and V by one file, write the table for `law fit`.",
    )
    verb.add_argument("folder", type=Path, metavar="DIR", help="the folder, read with all below it")
    verb.add_argument(
        "--models", type=Path, default=None, metavar="FILE", help="CSV: model,params_b,visual_tokens[,where,...]"
    )
    verb.add_argument("--out", type=Path, default=None, metavar="CSV", help="write the table there (default: print it)")
    verb.add_argument(
        "--metric", action="append", default=[], metavar="SUITE=NAME", help="which metric, where there are several"
    )
    verb.add_argument(
        "--maximum", action="append", default=[], metavar="SUITE=POINTS", help="what can be reached, where it is not 1"
    )
    verb.add_argument("--latest", action="store_true", help="of several runs of a model take the last")
    verb.add_argument("--partial", action="store_true", help="take runs with --limit, too")
    verb.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """Write the table, and say on stderr what there is to say of it."""
    from vlmlaw.evaluation.exchange.gather import gather
    from vlmlaw.evaluation.exchange.score import Choices

    maxima = points(args.maximum, option="--maximum")
    choices = Choices(pairs(args.metric, option="--metric"), maxima, args.partial)
    frame, notes = gather(args.folder, args.models, choices, latest=args.latest)
    text = frame.to_csv(index=False)
    if args.out:
        with whole_file(args.out) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"{len(frame)} rows of {frame['model'].nunique()} models written to {args.out}")
    else:
        print(text, end="")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def add_publish(verbs: Any, *, add_table: Callable[..., None], read: Callable[[argparse.Namespace], Any]) -> None:
    """Add the verb `law publish`; `add_table` and `read` are those of the other verbs on tables."""
    verb = verbs.add_parser(
        "publish",
        help="write a grid as CSV with a card, and as records of Every Eval Ever",
        description="Write a table, or the measurements.csv of a results folder, as others can read it.",
    )
    add_table(verb)
    verb.add_argument("out", type=Path, metavar="DIR", help="the folder to write; a new one, or one written so before")
    verb.add_argument("--organization", required=True, metavar="NAME", help="who made the measurements")
    verb.add_argument("--developer", default=None, metavar="NAME", help="who made the models (default: the same)")
    verb.add_argument(
        "--relationship",
        default="other",
        choices=["first_party", "third_party", "collaborative", "other"],
        help="theirs to the models (default other)",
    )
    verb.add_argument("--source", default=None, metavar="TEXT", help="where the numbers come from, for the card")
    verb.add_argument("--collection", default="vlmlaw", metavar="NAME", help="folder of the records (default vlmlaw)")
    verb.set_defaults(run=lambda args: run_publish(args, read))


def run_publish(args: argparse.Namespace, read: Callable[[argparse.Namespace], Any]) -> int:
    """Write the grid, and say where."""
    import time

    from vlmlaw.evaluation.exchange.publish import Origin, publish
    from vlmlaw.laws.published import TABLES

    folder = Path(args.table)
    if folder.is_dir():
        args.table = str(folder / "measurements.csv")
        if not Path(args.table).is_file():
            raise UserError(
                f"{folder} has no measurements.csv; expected a results folder of a finished study, or a table"
            )
    known = TABLES.get(str(folder)) if not folder.exists() else None
    if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / "measurements.csv").is_file():
        raise UserError(f"{args.out} holds other files; give a new folder")
    origin = Origin(
        organization=args.organization,
        developer=args.developer or args.organization,
        relationship=args.relationship,
        source=args.source or (known.source if known else f"{folder.name}, measured by {args.organization}"),
        collection=args.collection,
        documented=known is not None,
        retrieved=time.time(),
    )
    written = publish(read(args), args.out, origin)
    print(f"{args.out}: measurements.csv, README.md and {len(written) - 2} records of Every Eval Ever")
    return 0
