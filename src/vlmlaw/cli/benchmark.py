"""The verbs `vlmlaw benchmark ...`: ask a cell a benchmark's questions, run or import lmms-eval, print the table."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmlaw.cli.arguments import existing, file, folder_of
from vlmlaw.errors import UserError
from vlmlaw.evaluation.settings import BenchmarkSettings
from vlmlaw.evaluation.suites import READING, REASONING, Benchmark, table_lines
from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.settings import from_json
from vlmlaw.vlm.cell_name import MeasuredCell

MODEL = folder_of("config.json")


def add_parsers(subparsers: Any) -> None:
    """Add the verb `benchmark` with its own verbs."""
    parser = subparsers.add_parser("benchmark", help="evaluate a cell on a benchmark, by its own metric or lmms-eval")
    verbs = parser.add_subparsers(dest="benchmark_verb", metavar="VERB", required=True)
    run = verbs.add_parser("run", help="ask a cell the questions of a file and judge its replies")
    run.add_argument("--questions", required=True, type=file, metavar="FILE", help="JSON or JSON lines")
    run.add_argument("--images", type=existing, metavar="FOLDER", help="of the images; default: that of the questions")
    run.add_argument("--cell", metavar="JSON", help="which cell, where the model's weights serve several")
    _common(run, run_benchmark)
    lmms = verbs.add_parser("lmms-eval", help="run lmms-eval's task of a benchmark on a cell")
    _common(lmms, run_lmms)
    imported = verbs.add_parser("import", help="turn a results file of lmms-eval into measurements of a cell")
    imported.add_argument("results", type=file, metavar="RESULTS", help="..._results.json of lmms-eval")
    imported.add_argument("--model", required=True, type=MODEL, metavar="PATH", help="model/ of the cell")
    imported.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/ of the cell")
    imported.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="TASK:SUITE:SCORE:MAXIMUM",
        help="a task that the table lacks; its error is 1 - SCORE / MAXIMUM",
    )
    imported.add_argument("--text-tokens", type=int, metavar="Q", help="of a question, where no samples were logged")
    imported.add_argument("--partial", action="store_true", help="take runs of some of the questions, too")
    imported.set_defaults(run=run_import)
    table = verbs.add_parser("table", help="print how each benchmark becomes an error")
    table.set_defaults(run=run_table)


def _common(parser: Any, run: Any) -> None:
    parser.add_argument("--model", required=True, type=MODEL, metavar="PATH", help="model/ of the cell")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="<cell>/benchmarks/NAME.json")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--settings", metavar="JSON", help="the stage's settings (what a rule passes)")
    source.add_argument("--experiment", metavar="FILE", help="an experiment file; NAME of --out says which benchmark")
    parser.add_argument("--batch-size", type=int, metavar="N", help="questions at once; replies do not depend on it")
    parser.set_defaults(run=run)


def _settings(args: argparse.Namespace) -> BenchmarkSettings:
    """The stage's settings. Raises UserError where the experiment has no benchmark of that name."""
    if args.settings is not None:
        settings = from_json(BenchmarkSettings, args.settings)
    else:
        known = read_experiment(args.experiment).benchmarks
        if args.out.stem not in known:
            there = ", ".join(known) or "none"
            raise UserError(f"{args.experiment} has no benchmark {args.out.stem!r} (from --out); there are {there}.")
        settings = known[args.out.stem]
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size: found {args.batch_size}; expected 1 or more.")
    return replace(settings, batch_size=args.batch_size or settings.batch_size)


def run_benchmark(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.benchmark import evaluate_benchmark

    images = args.images or args.questions.parent
    cell = from_json(MeasuredCell, args.cell, where="--cell") if args.cell else None
    evaluate_benchmark(args.model, args.questions, images, args.out, settings=_settings(args), cell=cell)


def run_lmms(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.lmms_eval.run import run_lmms_eval

    own = _settings(args)
    run_lmms_eval(args.model, args.out, name=own.name, dtype=own.dtype, batch_size=own.batch_size)


def run_import(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.lmms_eval.run import import_results

    written = import_results(
        args.results,
        args.model,
        args.out or args.model.parent / "benchmarks",
        extra=dict(map(_extra, args.task)),
        n_text_tokens=args.text_tokens,
        partial=args.partial,
    )
    print("\n".join(map(str, written)))


def _extra(spec: str) -> tuple[str, Benchmark]:
    """A task of lmms-eval that the table lacks, from TASK:SUITE:SCORE:MAXIMUM."""
    try:
        task, suite, part, most = spec.split(":")
        maximum = float(most)
    except ValueError as error:
        raise UserError(f"--task: found {spec!r}; expected TASK:SUITE:SCORE:MAXIMUM.") from error
    if suite not in (REASONING, READING) or not maximum > 0:
        raise UserError(f"--task: found {spec!r}; expected {REASONING} or {READING} as SUITE, MAXIMUM above 0.")
    return task, Benchmark(
        title=task,
        suite=suite,
        split="",
        source="",
        metric=None,
        task=task,
        parts={part: maximum},
        reports_se=most == "1",
    )


def run_table(args: argparse.Namespace) -> None:
    print("\n".join(table_lines()))
