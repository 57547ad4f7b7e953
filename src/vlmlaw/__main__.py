"""The command line: the same verbs as the workflow's rules, each with its inputs and outputs as arguments."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vlmlaw import __version__, adopt, benchmark_cli, origins, records, stages, status
from vlmlaw.attempts import recorded
from vlmlaw.errors import UserError
from vlmlaw.gpus import own_gpus
from vlmlaw.laws import cli as laws_cli
from vlmlaw.machine import is_launched, rank
from vlmlaw.report import cli as report_cli
from vlmlaw.unbroken import outlive_readers


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb; a verb's module is imported only when it runs."""
    parser = argparse.ArgumentParser(prog="vlmlaw", description=__doc__)
    parser.add_argument("--version", action="version", version=f"vlmlaw {__version__}")
    records.add_options(parser)
    parser.add_argument("--log", type=Path, metavar="FILE", help="record beside this log what becomes of the job")
    parser.add_argument("--memory-mb", type=int, default=0, metavar="N", help="what the job was given: memory,")
    parser.add_argument("--minutes", type=int, default=0, metavar="N", help="run time,")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="and GPUs, which no other job here then gets")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    experiment = subparsers.add_parser("experiment", help="check an experiment file and list its cells")
    experiment.add_argument("check", nargs="*", metavar="[check] FILE", help="default: params.yaml")
    experiment.add_argument("--json", action="store_true", help="print the resolved experiment")
    experiment.set_defaults(run=run_experiment)
    stages.add_parsers(subparsers)
    status.add_parsers(subparsers)
    benchmark_cli.add_parsers(subparsers)
    laws_cli.add_parser(subparsers)
    report_cli.add_parsers(subparsers)
    origins.add_parser(subparsers)
    adopt.add_parser(subparsers)
    return parser


def run_experiment(args: argparse.Namespace) -> None:
    """Print what an experiment file makes; a UserError says what is wrong with it."""
    import json

    from vlmlaw.experiment import read_experiment
    from vlmlaw.settings import as_data

    given = [word for word in args.check if word != "check"] or ["params.yaml"]
    experiment = read_experiment(given[0])
    if args.json:
        print(json.dumps(as_data(experiment), indent=1))
        return
    print(
        f"{experiment.name}: {len(experiment.cells)} cells of {len(experiment.sizes)} sizes, into {experiment.results}/"
    )
    for name in experiment.cells:
        held_out = experiment.cells[name].size == experiment.grid.held_out
        print(f"  {name}{'  (held out of the fit)' if held_out else ''}")
    if experiment.pretrained and experiment.compute.gpus:
        from vlmlaw.budget import describe

        print(describe(experiment))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; bad input ends in one readable message on stderr and exit status 2."""
    # transformers' own bars flicker for milliseconds and fill log files; long jobs show their progress themselves.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    args = build_parser().parse_args(argv)
    if args.log:
        outlive_readers(args.log)
    given = {"memory_mb": args.memory_mb, "minutes": args.minutes, "gpus": args.gpus}
    log, gpus = (None, 0) if is_launched() else (args.log, args.gpus)  # the process that started the others has them
    args.argv = list(sys.argv[1:] if argv is None else argv)  # for verbs that start themselves in several processes
    try:
        with own_gpus(gpus), recorded(log, **given) as attempt:
            attempt.status = args.run(args) or 0
            if args.record and not attempt.status and rank() == 0:  # of the processes of a training that writes it
                records.write(args)
            return attempt.status
    except UserError as error:
        print(f"vlmlaw {args.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough; keep Python from writing to it at exit.
        sys.stdout = None
        return 0


if __name__ == "__main__":
    sys.exit(main())
