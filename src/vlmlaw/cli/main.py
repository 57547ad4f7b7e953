"""The command line: laws of measured cells, what a run made, and every stage of the workflow as a verb."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from vlmlaw import __version__
from vlmlaw.cli.arguments import Parser
from vlmlaw.cli.extras import extra_of
from vlmlaw.cli.output import redirect_broken_stdout
from vlmlaw.errors import UserError
from vlmlaw.runtime.gpu_locks import own_gpus
from vlmlaw.runtime.ownership import owned
from vlmlaw.runtime.stop_switch import head_of_this
from vlmlaw.runtime.workspace import cleared_at_the_end
from vlmlaw.training.distributed import is_launched, rank
from vlmlaw.workflow import records
from vlmlaw.workflow.attempts import given_hash, is_disk_full, recorded

DESCRIPTION = (
    "Larger LLM or more visual tokens? Fit the scaling law of measured vision-language models, find the cell to "
    "deploy, and run or inspect the study that measures them."
)
EPILOG = (
    "Begin with `vlmlaw law fit TABLE.csv` (or `li2024_reasoning`, a published table), or with `vlmlaw experiment "
    "check`. Snakemake runs the stages, from `data` to `headline`; each can be run by hand, too."
)
# Each family of verbs in the order of the help, with how its module adds them.
FAMILIES = {
    "law": "add_parser",
    "measure": "add_parser",
    "tokens": "add_parser",
    "models": "add_parser",
    "serve": "add_parser",
    "experiment": "add_parser",
    "import_checkpoint": "add_parser",
    "status": "add_parsers",
    "report": "add_parsers",
    "provenance": "add_parser",
    "stages": "add_parsers",
    "benchmark": "add_parsers",
    "adopt": "add_parser",
    "init": "add_parser",
}


def build_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of every verb, or of `law` alone where the arguments begin with it, which then starts sooner."""
    parser = Parser(prog="vlmlaw", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"vlmlaw {__version__}")
    job = parser.add_argument_group("what a rule of the workflow says before the verb")
    records.add_options(job)
    job.add_argument("--log", type=Path, metavar="FILE", help="record beside this log what becomes of the job")
    job.add_argument("--memory-mb", type=int, default=0, metavar="N", help="memory that the job was given")
    job.add_argument("--minutes", type=int, default=0, metavar="N", help="run time that it was given")
    job.add_argument("--gpus", type=int, metavar="N", help="GPUs of its own, which no other job here gets")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for family, add in FAMILIES.items():
        if list(argv[:1]) != ["law"] or family == "law":
            getattr(import_module(f"vlmlaw.cli.{family}"), add)(subparsers)
    return parser


@contextmanager
def _owned(args: argparse.Namespace) -> Iterator[bool]:
    """Be the only one that makes this output; true where another process has just made what this job was to make."""
    if getattr(args, "out", None) is None or rank() != 0:  # of the processes of a training the first has it
        yield False
        return
    with owned(Path(args.out), what=args.verb, head=head_of_this(), wait=args.record is not None) as waited:
        done = waited and records.is_made(args)
        if done:
            print(f"{args.out} has been made meanwhile, from the same settings, code and inputs", file=sys.stderr)
        yield done


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; bad input ends in one readable message on stderr and exit status 2."""
    # transformers' own bars flicker for milliseconds and fill log files; long jobs show their progress themselves.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(argv).parse_args(argv)
    if args.log:
        redirect_broken_stdout(args.log)
    given = {
        "memory_mb": args.memory_mb,
        "minutes": args.minutes,
        "gpus": args.gpus or 0,
        "given": given_hash(*(getattr(args, name, None) for name in records.GIVEN)),
    }
    log, gpus = (None, None) if is_launched() else (args.log, args.gpus)  # the process that started the others has them
    args.argv = argv  # for verbs that start themselves in several processes
    try:
        with _owned(args) as made_meanwhile:
            if made_meanwhile:
                return 0
            with own_gpus(gpus), recorded(log, **given) as attempt, cleared_at_the_end():
                before = records.inputs_of(args) if args.record and rank() == 0 else None
                if before is not None:  # an old one says nothing of what is made now
                    args.record.unlink(missing_ok=True)
                attempt.status = args.run(args) or 0
                if before is not None and not attempt.status:  # of the processes of a training the first writes it
                    records.write(args, began_with=before)
                return attempt.status
    except UserError as error:
        print(f"vlmlaw {args.verb}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = extra_of(error)
        if extra is None:
            raise
        print(f"vlmlaw {args.verb}: {error.name} is missing; pip install 'vlmlaw[{extra}]' brings it", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough; keep Python from writing to it at exit.
        sys.stdout = None
        return 0
    except Exception as error:
        if not is_disk_full(error):
            raise
        print(f"vlmlaw {args.verb}: {_full_disk(Path(getattr(args, 'out', None) or '.'), error)}", file=sys.stderr)
        return 1


def _full_disk(out: Path, error: Exception) -> str:
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 1e6
    return (
        f"no space is left on the disk, or in your quota, for {out} ({free:,.0f} MB are free; {error}). Make room and "
        "start again: nothing half written is left, and a training goes on from its checkpoint."
    )
