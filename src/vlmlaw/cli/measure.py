"""`vlmlaw measure`: released models on one's own questions, at several numbers of visual tokens."""

import argparse
from pathlib import Path
from typing import Any

from vlmlaw.cli.law import pairs


def add_parser(subparsers: Any) -> None:
    """Add the verb `measure`."""
    parser = subparsers.add_parser(
        "measure",
        help="which model, at how many visual tokens: ask models your own questions",
        description="Ask every model every question at every number of visual tokens; print and write errors with "
        "intervals, times, and the cheapest setting that is good enough. A second run resumes from the first one's "
        "replies.",
    )
    parser.add_argument("questions", type=Path, metavar="QUESTIONS", help="JSON lines, a CSV, or a folder with one")
    parser.add_argument("--images", type=Path, metavar="DIR", help="of the images; default: that of the questions")
    parser.add_argument("--question", metavar="TEXT", help="what is asked of every image of a CSV without questions")
    parser.add_argument("--metric", metavar="NAME", help="how replies are judged; default: by the form of the answers")
    parser.add_argument("--instruction", metavar="TEXT", help="what follows each question; default: the metric's")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="of a reply; default: the metric's")
    parser.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server, http://127.0.0.1:8000/v1")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="as the server names it; repeat")
    parser.add_argument("--cell", action="append", default=[], type=Path, metavar="DIR", help="a cell trained here")
    parser.add_argument("--family", action="append", default=[], metavar="[NAME=]FAMILY", help="where no name tells it")
    parser.add_argument("--params", action="append", default=[], metavar="NAME=7B", help="where no name tells it")
    parser.add_argument(
        "--visual-tokens", nargs="+", default=["0", "max"], metavar="V", help="for each image; 0 none, max its own"
    )
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="questions at a time (default 1)")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds for one reply (300)")
    parser.add_argument("--patience", type=float, default=600.0, metavar="S", help="seconds a server may be away (600)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: measured/NAME, after the questions")
    parser.set_defaults(run=run_measure)


def run_measure(args: argparse.Namespace) -> int:
    """Ask, judge, print, write."""
    from vlmlaw.evaluation.measuring.cells import cells_of, read_budget
    from vlmlaw.evaluation.measuring.questions_of import read_question_set
    from vlmlaw.evaluation.measuring.run import ask_all
    from vlmlaw.evaluation.measuring.summary import measurement_rows, write_csv
    from vlmlaw.report.measured_terminal import cells_in_words

    _require_sane(args)
    asked = read_question_set(args.questions, images=args.images, metric=args.metric, question=args.question)
    models, backends = _open(args)
    cells = cells_of(models, [read_budget(text) for text in args.visual_tokens])
    out = args.out or Path("measured") / asked.name
    measured = ask_all(
        asked,
        cells,
        backends,
        out=out,
        instruction=asked.metric.instruction if args.instruction is None else args.instruction,
        max_new_tokens=args.max_new_tokens or asked.metric.max_new_tokens,
        concurrency=args.concurrency,
    )
    write_csv(measured.table, out / "cells.csv")
    write_csv(measured.judged, out / "questions.csv")
    rows = measurement_rows(measured.judged, cells)
    if len(rows):
        write_csv(rows, out / "measurements.csv")
    print(cells_in_words(measured, metric=asked.metric_name))
    print(f"\nwritten: {out}")
    return 1 if measured.incomplete else 0


def _require_sane(args: argparse.Namespace) -> None:
    from vlmlaw.errors import UserError

    if not args.model and not args.cell:
        raise UserError("no model is named; give --model NAME (as often as there are models), or --cell DIR.")
    if args.model and not args.endpoint:
        raise UserError(f"--model {args.model[0]} has no server; give --endpoint URL, as http://127.0.0.1:8000/v1.")
    for name in ("concurrency", "timeout", "patience", "max_new_tokens"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')}: found {value}; expected a number above 0.")


def _open(args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """The models with their back ends."""
    from vlmlaw.errors import UserError
    from vlmlaw.evaluation.measuring.cells import Model

    params = pairs(args.params, option="--params")
    family_of = pairs([text for text in args.family if "=" in text], option="--family")
    for_all = [text for text in args.family if "=" not in text]
    for option, named in (("--params", params), ("--family", family_of)):
        unknown = [name for name in named if name not in args.model]
        if unknown:
            raise UserError(f"{option} names {unknown[0]!r}, which is no --model; there are {', '.join(args.model)}.")
    models, backends = [], dict[str, Any]()
    for name in args.model:
        from vlmlaw.evaluation.backends.endpoint import Endpoint, Patience

        family = family_of.get(name, for_all[-1] if for_all else "")
        model = Model.named(name, family=family, params=params.get(name, ""))
        patience = Patience(timeout_seconds=args.timeout, outage_seconds=args.patience)
        models.append(model)
        backends[name] = Endpoint(args.endpoint, name, model.rule, patience=patience)
    return models, backends
