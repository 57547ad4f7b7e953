"""The command line: the same verbs as the workflow's rules, each with its inputs and outputs as arguments."""

import argparse
import sys
from collections.abc import Sequence

from vlmlaw import __version__
from vlmlaw.errors import UserError
from vlmlaw.laws import cli as laws_cli


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb; a verb's module is imported only when it runs."""
    parser = argparse.ArgumentParser(prog="vlmlaw", description=__doc__)
    parser.add_argument("--version", action="version", version=f"vlmlaw {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    laws_cli.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; bad input ends in one readable message on stderr and exit status 2."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"vlmlaw {args.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough; keep Python from writing to it at exit.
        sys.stdout = None
        return 0


if __name__ == "__main__":
    sys.exit(main())
