"""`vlmlaw models ask|judge|collect`: the stages of an experiment with `models:`, as rules call them."""

import argparse
from pathlib import Path
from typing import Any

from vlmlaw.cli.arguments import existing, file


def add_parser(subparsers: Any) -> None:
    """Add the verb `models` with its verbs."""
    models = subparsers.add_parser("models", help="ask a model, judge the replies, collect: stages of `models:`")
    verbs = models.add_subparsers(dest="models_verb", metavar="VERB", required=True)
    ask = verbs.add_parser("ask", help="ask one model the questions of a benchmark at one number of visual tokens")
    load = verbs.add_parser("load", help="time a server's model under several questions at a time")
    judge = verbs.add_parser("judge", help="judge the replies of all models to a benchmark, and write the page")
    judge.add_argument("replies", nargs="+", type=file, metavar="REPLIES", help="what `models ask` wrote")
    judge.add_argument("--loads", nargs="*", default=[], type=file, metavar="JSON", help="what `models load` wrote")
    for parser in (ask, load, judge):
        parser.add_argument("--questions", required=True, type=file, metavar="FILE", help="JSON lines or CSV")
        parser.add_argument("--images", required=True, type=existing, metavar="DIR", help="their folder")
        parser.add_argument("--benchmark", required=True, metavar="NAME", help="the name of these questions")
        parser.add_argument("--settings", required=True, metavar="JSON", help="what the result depends on")
        parser.add_argument("--out", required=True, type=Path, metavar="PATH")
    for parser in (ask, load):
        parser.add_argument("--serving", default="{}", metavar="JSON", help="questions at a time, seconds to wait")
        parser.add_argument("--endpoint", default="none", metavar="URL", help="of a server's model")
    ask.set_defaults(run=run_ask)
    load.set_defaults(run=run_load)
    judge.add_argument("--metric", default="", metavar="NAME", help="default: by the answers")
    judge.set_defaults(run=run_judge)
    collect = verbs.add_parser("collect", help="one measurements.csv of those of all benchmarks")
    collect.add_argument("tables", nargs="+", type=file, metavar="CSV", help="measurements.csv of a benchmark")
    collect.add_argument("--out", required=True, type=Path, metavar="FILE")
    collect.set_defaults(run=run_collect)


def run_ask(args: argparse.Namespace) -> None:
    """Ask; what was answered before is not asked again."""
    from vlmlaw.evaluation.measuring.job import ask_job

    _run_job(args, ask_job)


def run_load(args: argparse.Namespace) -> None:
    """Time a cell under each load."""
    from vlmlaw.evaluation.measuring.job import load_job

    _run_job(args, load_job)


def _run_job(args: argparse.Namespace, job: Any) -> None:
    from vlmlaw.evaluation.measuring.job import AskSettings, Serving, read_asked
    from vlmlaw.settings import from_json

    settings = from_json(AskSettings, args.settings)
    asked = read_asked(args.questions, args.images, name=args.benchmark, metric=settings.metric)
    serving = from_json(Serving, args.serving, where="--serving")
    job(settings, asked, serving=serving, endpoint=args.endpoint.removeprefix("none"), out=args.out)


def run_judge(args: argparse.Namespace) -> None:
    """Judge, print and write."""
    from vlmlaw.evaluation.measuring.job import JudgeSettings, judge_job, read_asked
    from vlmlaw.report.measured_files import write_measured
    from vlmlaw.report.measured_terminal import in_words
    from vlmlaw.settings import from_json

    settings = from_json(JudgeSettings, args.settings)
    asked = read_asked(args.questions, args.images, name=args.benchmark, metric=args.metric)
    measured = judge_job(asked, [path.parent for path in args.replies], speed=settings.speed, loads=args.loads)
    facts = {
        "questions": f"{asked.source} ({len(asked.questions)}), judged by {asked.metric_name}",
        "models": ", ".join(dict.fromkeys(cell.model.name for cell in measured.cells)),
    }
    found = write_measured(measured, settings.wishes, metric=asked.metric_name, out=args.out, facts=facts)
    print(in_words(found))


def run_collect(args: argparse.Namespace) -> None:
    """Write the table."""
    from vlmlaw.evaluation.measuring.job import collect_tables
    from vlmlaw.evaluation.measuring.summary import write_csv

    write_csv(collect_tables(args.tables), args.out)
