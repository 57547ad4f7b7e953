"""`vlmlaw serve`: cells that were trained here behind an OpenAI-compatible server."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb `serve`."""
    parser = subparsers.add_parser(
        "serve",
        help="serve trained cells by `transformers serve`, OpenAI-compatible",
        description="Run `transformers serve` so that it knows cells that were trained here; a cell is a model whose "
        "name is its folder, results/cells/<cell>/model. Needs transformers[serving].",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000")
    parser.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace) -> None:
    """Serve until it is stopped."""
    from vlmlaw.evaluation.backends.serve import serve

    serve(["--host", args.host, "--port", str(args.port)])
