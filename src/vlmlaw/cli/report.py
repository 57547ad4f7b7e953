"""`vlmlaw report`: figures and page. `vlmlaw summary`: the laws in a few lines, and where the page is."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from vlmlaw.cli.values import pairs, words
from vlmlaw.errors import UserError


def add_parsers(subparsers: Any) -> None:
    """Add the verbs `report` and `summary`."""
    report = subparsers.add_parser(
        "report",
        help="draw the figures and write the page",
        description="Draw the figures of a law and its measurements, and write one self-contained page about them: "
        "`vlmlaw report TABLE` fits the law as well; with --law and --measurements it is one that was fitted before.",
    )
    report.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        help="a CSV file, or the name of published cells; as FILE or NAME=FILE; several stand side by side",
    )
    report.add_argument(
        "--law", action="append", default=[], type=Path, metavar="JSON", help="what `vlmlaw law fit --out` wrote"
    )
    report.add_argument(
        "--measurements", action="append", default=[], metavar="CSV", help="the table it was fitted to, or NAME=CSV"
    )
    report.add_argument("--out", type=Path, metavar="DIR", help="gets index.html and figures/ (default report)")
    report.add_argument("--params-unit", metavar="UNIT", help="with TABLE: of N: billions, millions or count")
    report.add_argument(
        "--scale", default="auto", metavar="WORD", help="with TABLE: fraction, percent or auto (default)"
    )
    report.add_argument("--allow-missing", action="store_true", help="with TABLE: fit although cells are missing")
    report.add_argument("--cells", type=Path, metavar="DIR", help="trained cells, a folder each, for their accounts")
    report.add_argument(
        "--trainings",
        nargs="+",
        default=[],
        type=Path,
        metavar="PATH",
        help="encoder, language models: folders, or their training.json",
    )
    report.add_argument("--design", type=Path, metavar="FILE", help="of a design its last round, to say what it chose")
    report.add_argument("--samples", type=Path, metavar="DATASET", help="a dataset to show pictures of")
    report.add_argument("--explained", type=Path, metavar="JSON", help="questions to show: what `vlmlaw explain` wrote")
    report.add_argument("--n-samples", type=int, metavar="N", help="how many pictures (default 8)")
    report.add_argument("--compressor", metavar="NAME", help="whose law the page is about, where each has its own")
    report.add_argument("--title", metavar="TEXT", help="the page's title")
    report.add_argument("--experiment", metavar="FILE", help="the experiment file (or its JSON), for the provenance")
    report.add_argument("--settings", metavar="JSON", help="title and samples (what a rule passes)")
    report.add_argument("--formats", default="svg", metavar="A,B", help="of the figures' files: svg, png, pdf")
    report.add_argument("--column", action="append", default=[], metavar="NAME=YOURS", help="as for `vlmlaw law fit`")
    report.add_argument("--scores", default="", metavar="A,B", help="as for `vlmlaw law fit`")
    report.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="as for `vlmlaw law fit`")
    report.set_defaults(run=run_report)
    summary = subparsers.add_parser("summary", help="print the laws of a finished run and the path of its page")
    summary.add_argument("file", nargs="?", default="params.yaml", help="an experiment file, or a law.json")
    summary.set_defaults(run=run_summary)


def run_report(args: argparse.Namespace) -> None:
    """Figures and page of a law; with --cells also of the run that it came from."""
    from vlmlaw.report.figures import gallery
    from vlmlaw.report.page import Run, write_page
    from vlmlaw.report.provenance import read_description
    from vlmlaw.report.several_page import FAMILIES, write_several
    from vlmlaw.report.study import read_study

    settings, formats = _settings(args), _formats(args.formats)
    out = args.out or Path("report")
    if max(len(args.tables), len(args.measurements)) > 1:
        _report_several(args, out, title=_own_title(settings), formats=formats)
        return
    name, law, measurements = _one_table(args, out)
    own_title = args.title or name or _own_title(settings)
    if _written_one_axis(law, measurements, out, title=own_title, formats=formats if args.cells else ()):
        return
    title = own_title or settings.title
    read = partial(read_study, law, measurements, compressor=settings.compressor, **_reading(args))
    description = read_description(args.experiment) if args.experiment else None
    study = read(title=title, experiment=description)
    families = [own for own in study.families if settings.compressor in ("", own)]
    if len(families) > 1:
        studies = {own: read(title=own, family=own) for own in families}
        write_several(studies, out, title=title, formats=formats, kind=FAMILIES)
        print(f"written: {out / 'index.html'}")
        return
    if families:  # the others have too few cells for a law, or were not asked for
        study = read(title=title, experiment=description, family=families[0])
    run = _run(args, study, n_samples=settings.samples) if args.cells or args.samples or args.explained else Run()
    gallery.draw_figures(study, out / "figures", formats=formats, cells=run.cells, every=bool(run.cells))
    write_page(study, out / "index.html", run=run)
    print(f"written: {out / 'index.html'}")


def _written_one_axis(law: Path, measurements: Path, out: Path, *, title: str, formats: tuple[str, ...]) -> bool:
    """Whether the table has one size or one V, and so no law in both; then its page is written.

    With `formats` also the files of figures, which a rule of the workflow declares.
    """
    from vlmlaw.laws.analysis import read_analysis
    from vlmlaw.report.one_axis_page import draw_one_axis_figures, write_one_axis

    analysis = read_analysis(law)
    if analysis["fits"]:
        return False
    if formats:
        draw_one_axis_figures(analysis, out / "figures", formats=formats)
    write_one_axis(analysis, out / "index.html", law=law, measurements=measurements, title=title)
    print(f"written: {out / 'index.html'}")
    return True


def _one_table(args: argparse.Namespace, out: Path) -> tuple[str, Path, Path]:
    """The name that the one table was given, as in NAME=FILE ("": none), its law, and its file."""
    from vlmlaw.experiment.path_checks import named_tables

    given = [*args.tables, *args.measurements]
    named = given[:1] if given and "=" in given[0] and not Path(given[0]).exists() else []
    name, table = next(iter(named_tables(named).items()), ("", given[0] if given else ""))
    if args.tables:
        return name, *_fitted(args, table, out)
    law, measurements = _given(args)
    return name, law, Path(table) if name else measurements


def _given(args: argparse.Namespace) -> tuple[Path, Path]:
    """The law and the table of the options. Raises UserError where one is missing."""
    if not args.law or not args.measurements:
        missing = " and ".join(f"--{name}" for name in ("law", "measurements") if not getattr(args, name))
        raise UserError(
            f"no table given: {missing} missing; expected `vlmlaw report TABLE`, or a law that was fitted before, as "
            "in --law law.json --measurements TABLE"
        )
    return args.law[0], Path(args.measurements[0])


def _report_several(args: argparse.Namespace, out: Path, *, title: str, formats: tuple[str, ...]) -> None:
    """The page of several tables in the folder `out`, and that of each in a folder of its name."""
    from vlmlaw.experiment.path_checks import named_tables
    from vlmlaw.report.several_page import write_several
    from vlmlaw.report.study import read_study

    if args.cells or args.samples or args.explained or args.compressor:
        raise UserError(
            f"found --cells, --samples, --explained or --compressor with {len(args.tables or args.measurements)} "
            "tables; they say more of one run. Expected tables alone, or one of them with its run"
        )
    named = named_tables(args.tables or args.measurements)
    if args.tables:
        fitted = {name: _fitted(args, table, out / name) for name, table in named.items()}
    elif len(args.law) != len(named):
        raise UserError(f"found {len(args.law)} of --law and {len(named)} of --measurements; expected one law a table")
    else:
        fitted = {name: (law, Path(table)) for law, (name, table) in zip(args.law, named.items(), strict=True)}
    studies = {name: read_study(law, table, title=name, **_reading(args)) for name, (law, table) in fitted.items()}
    write_several(studies, out, title=title, formats=formats)
    print(f"written: {out / 'index.html'}")


def _reading(args: argparse.Namespace) -> dict[str, Any]:
    """How a table is read."""
    return {
        "columns": pairs(args.column, option="--column"),
        "scores": words(args.scores),
        "where": pairs(args.where, option="--where"),
    }


def _fitted(args: argparse.Namespace, name: str, out: Path) -> tuple[Path, Path]:
    """Fit the law of the table `name` to law.json in the folder `out`; returns both paths."""
    from vlmlaw.laws.analysis import analyse
    from vlmlaw.laws.options import LawOptions
    from vlmlaw.laws.table import read_measurements

    if args.law or args.measurements:
        raise UserError(
            f"found the table {name} beside --law or --measurements; expected either the table, whose law is "
            "then fitted, or both options"
        )
    table = read_measurements(
        name,
        pairs(args.column, option="--column"),
        params_unit=args.params_unit,
        scale=args.scale,
        scores=words(args.scores),
    )
    where = pairs(args.where, option="--where")
    table = table.select(**where) if where else table
    options = LawOptions(  # how the table was read, so that the page can say how to make its numbers again
        columns=pairs(args.column, option="--column"),
        params_unit=args.params_unit,
        scale=args.scale,
        scores=words(args.scores),
        where=where,
        allow_missing=args.allow_missing,
    )
    analyse(table, options, out=out / "law.json")
    return out / "law.json", Path(name)


def _run(args: argparse.Namespace, study: Any, *, n_samples: int) -> Any:
    from vlmlaw.experiment.design_round import read_round
    from vlmlaw.report.explained import read_explanation
    from vlmlaw.report.page import Run
    from vlmlaw.report.run_files import read_cells, read_samples, read_trainings

    frame = study.measurements.frame
    names = list(dict.fromkeys(frame["training"].where(frame["training"] != "", frame["cell"])))
    return Run(
        cells=read_cells(args.cells, names) if args.cells else (),
        trainings=read_trainings(path.parent if path.is_file() else path for path in args.trainings),
        samples=read_samples(args.samples, n_samples=n_samples) if args.samples and n_samples else (),
        explanation=read_explanation(args.explained) if args.explained else None,
        design=read_round(args.design) if args.design else None,
    )


def run_summary(args: argparse.Namespace) -> None:
    """Print the laws of the experiment's results folder, or of a law.json."""
    from vlmlaw.report.terminal import summary

    given = Path(args.file)
    if given.suffix == ".json":
        print(summary(given, page=None))
        return
    from vlmlaw.experiment.experiment import read_experiment
    from vlmlaw.laws.table import read_measurements
    from vlmlaw.report.study import measured_question_tokens

    results = Path(read_experiment(given).results)
    law = results / "law" / "law.json"
    if not law.exists():
        raise UserError(f"{law} is not there yet; run `snakemake --cores all --configfile {given}` first.")
    q = measured_question_tokens(read_measurements(results / "measurements.csv").frame)
    print(summary(law, page=results / "report" / "index.html", question_tokens=q))


def _settings(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from vlmlaw.experiment.sections import ReportSettings
    from vlmlaw.settings import from_json

    settings = from_json(ReportSettings, args.settings) if args.settings else ReportSettings()
    given = {"title": args.title, "samples": args.n_samples, "compressor": args.compressor}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def _own_title(settings: Any) -> str:
    """The title that was asked for; "" for the default one, which asks of two axes of one table."""
    from vlmlaw.experiment.sections import ReportSettings

    return "" if settings.title == ReportSettings().title else str(settings.title)


def _formats(text: str) -> tuple[str, ...]:
    known = ("svg", "png", "pdf")
    formats = words(text)
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        raise UserError(f"--formats: found {text!r}; expected one or more of {', '.join(known)}.")
    return formats
