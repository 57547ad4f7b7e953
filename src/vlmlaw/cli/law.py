"""`vlmlaw law ...`: fit a law to a table, recommend a cell, plan the next cells, lint, list the laws."""

import argparse
import contextlib
from typing import Any

from vlmlaw.cli import law_exchange, law_next, law_tables
from vlmlaw.cli.values import pairs, points, words
from vlmlaw.errors import UserError

PASS_TOKENS = (
    "tokens of the question alone, without template and instruction (default: of the table, or 7 as published)"
)


def add_parser(subparsers: Any) -> None:
    """Add the verb `law` and its own verbs."""
    law = subparsers.add_parser("law", help="fit a scaling law to measured cells; find the cell to deploy")
    verbs = law.add_subparsers(dest="law_verb", metavar="VERB", required=True)
    _add_fit(verbs)
    _add_recommend(verbs)
    law_next.add_parser(verbs, add_table=_add_table, read=_read)
    _add_lint(verbs)
    law_tables.add_parser(verbs)
    law_exchange.add_import(verbs)
    law_exchange.add_publish(verbs, add_table=_add_table, read=_read)
    laws = verbs.add_parser("list", help="list the laws with their formulas")
    laws.set_defaults(run=run_list)


def _add_fit(verbs: Any) -> None:
    fit = verbs.add_parser(
        "fit",
        help="fit, compare and judge laws; print rho and V*(Q)",
        description="Fit a law to each suite of a table and print rho and V*(Q) with intervals.",
    )
    _add_table(fit)
    fit.add_argument("--law", default=None, metavar="NAME", help="one of `vlmlaw law list`, or auto (default)")
    fit.add_argument("--candidates", type=words, default=None, metavar="A,B", help="laws that auto compares")
    fit.add_argument("--question-tokens", type=_numbers, default=None, metavar="Q,Q", help="question tokens for V*(Q)")
    fit.add_argument("--generated-tokens", type=_number, default=None, metavar="G", help="tokens of an answer")
    fit.add_argument("--vision-flops", type=_number, default=None, metavar="F", help="FLOPs of the encoder, an image")
    fit.add_argument("--question-pass", action="store_true", default=None, help="add QueCC's 2Nq pass to the cost")
    fit.add_argument("--pass-tokens", type=_number, metavar="q", help=PASS_TOKENS)
    fit.add_argument("--cost", default=None, metavar="COLUMN", dest="cost_column", help="measured cost; A+B for a sum")
    fit.add_argument("--budgets", type=_numbers, default=None, metavar="F,F", help="FLOPs for an answer")
    fit.add_argument("--hold-out", default=None, metavar="SIZE", help="auto (default), largest, none, or billions")
    fit.add_argument("--level", type=_number, default=None, metavar="P", help="confidence level (default 0.95)")
    fit.add_argument("--bootstrap-draws", type=int, default=None, metavar="N", help="draws (default 2000; 0 for none)")
    fit.add_argument("--seed", type=int, default=None, metavar="N", help="seed of the bootstrap (default 0)")
    fit.add_argument("--loss", default=None, metavar="WORD", help="squared (default) or huber")
    fit.add_argument("--weights", default=None, metavar="WORD", help="none (default) or se, for 1 / error_se**2")
    fit.add_argument("--size-effects", action="store_true", default=None, help="rho under a random effect of each size")
    fit.add_argument("--options", default=None, metavar="YAML", help="a file with a `law:` section; flags override it")
    fit.add_argument("--settings", default=None, metavar="JSON", help="options as JSON (what a rule passes)")
    fit.add_argument("--out", default=None, metavar="JSON", help="write the whole analysis there")
    fit.add_argument("--json", action="store_true", help="print the whole analysis as JSON")
    fit.set_defaults(run=run_fit)


def _add_recommend(verbs: Any) -> None:
    recommend = verbs.add_parser(
        "recommend",
        help="the cell to deploy within a budget",
        description="The cell of least predicted error within a budget of FLOPs (or of a measured column).",
    )
    _add_table(recommend, default="li2024_reasoning")
    recommend.add_argument("--flops", type=_number, default=None, metavar="F", help="budget: FLOPs for an answer")
    recommend.add_argument("--question-tokens", type=_number, default=50.0, metavar="Q", help="default 50")
    recommend.add_argument("--generated-tokens", type=_number, default=0.0, metavar="G", help="default 0")
    recommend.add_argument(
        "--vision-flops", type=_number, default=0.0, metavar="F", help="FLOPs of the encoder, an image"
    )
    recommend.add_argument("--question-pass", action="store_true", help="add QueCC's 2Nq pass to the cost")
    recommend.add_argument("--pass-tokens", type=_number, metavar="q", help=PASS_TOKENS)
    recommend.add_argument("--cost", default=None, metavar="COLUMN", help="a measured column, or A+B for a sum")
    recommend.add_argument(
        *("--limit", "--budget"), dest="budget", type=_number, default=None, metavar="B", help="in the unit of --cost"
    )
    recommend.add_argument(
        *("--cost-params", "--active-params"), default=None, metavar="COLUMN", help="N of the cost, as active experts"
    )
    recommend.add_argument(
        "--weight", action="append", default=[], metavar="SUITE=W", help="serve several suites, each with its weight"
    )
    recommend.add_argument("--sizes", type=_numbers, default=(), metavar="N,N", help="sizes in billions to choose from")
    recommend.add_argument("--tokens", type=_numbers, default=(), metavar="V,V", help="token counts to choose from")
    recommend.add_argument("--choice", type=_numbers, default=None, metavar="N,V", help="what this cell would lose")
    recommend.add_argument("--law", default="auto", metavar="NAME", help="a law's name, or auto (default)")
    recommend.add_argument("--tolerance", type=_number, default=0.005, metavar="T", help="as good within it (0.005)")
    recommend.add_argument("--json", action="store_true", help="print JSON")
    recommend.set_defaults(run=run_recommend)


def _add_lint(verbs: Any) -> None:
    lint = verbs.add_parser(
        "lint",
        help="look for what is wrong with a table of measurements",
        description="Print what is wrong or doubtful in a table; exit status 1 where it is an error.",
    )
    _add_table(lint)
    lint.add_argument("--json", action="store_true", help="print JSON")
    lint.set_defaults(run=run_lint)


def _add_table(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    what = "a CSV file, or the name of a published table (`vlmlaw law tables`), such as li2024_reasoning"
    if default is None:
        parser.add_argument("table", help=what)
    else:
        parser.add_argument("table", nargs="?", default=default, help=f"{what} (default {default})")
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=YOURS", help="which column is n_params, score, ..."
    )
    parser.add_argument("--params-unit", default=None, metavar="UNIT", help="of N: billions, millions or count")
    parser.add_argument("--scale", default=None, metavar="WORD", help="fraction, percent or auto (default)")
    parser.add_argument("--scores", type=words, default=(), metavar="A,B", help="wide table: a column for each suite")
    parser.add_argument(
        "--maximum", action="append", default=[], metavar="SUITE=POINTS", help="of a suite in points, as MME=2000"
    )
    parser.add_argument("--holds", default=None, metavar="WORD", help="wide table: of score or error (default auto)")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep these rows only")
    parser.add_argument("--expected", default=None, metavar="CSV", help="cells that should be there")
    parser.add_argument("--allow-missing", action="store_true", default=None, help="fit although cells are missing")


def run_fit(args: argparse.Namespace) -> int:
    """Analyse a table; print the tables or the JSON, and write the JSON where asked."""
    import json

    from vlmlaw.laws.analysis import analyse
    from vlmlaw.laws.render import render_analysis

    table = _read(args)
    # A workflow, which keeps records, has trained these cells: it shows them, even if they are too few for a law.
    result = analyse(table, _options(args), out=args.out, allow_none=getattr(args, "record", None) is not None)
    if not args.json:
        print(f"{table.units['read']}\n")
    print(json.dumps(result, indent=1) if args.json else render_analysis(result))
    if args.out and not args.json:
        print(f"\nwritten: {args.out}")
    return 0


def run_recommend(args: argparse.Namespace) -> int:
    """Fit the law, choose the cell, print it."""
    import json
    import warnings

    from vlmlaw.laws.analysis import plain
    from vlmlaw.laws.blend import Blend
    from vlmlaw.laws.costs import ColumnCost, Cost, CostModel, active_parameters, tokens_of_pass
    from vlmlaw.laws.decision import recommend, regret
    from vlmlaw.laws.fit import LintWarning
    from vlmlaw.laws.linter.lint import require_clean
    from vlmlaw.laws.render import render_recommendation, render_regret

    table = _read(args)
    findings = require_clean(table, allow_missing=args.allow_missing)
    cost: CostModel = Cost(
        question_tokens=args.question_tokens,
        generated_tokens=args.generated_tokens,
        vision_flops=args.vision_flops,
        question_pass=args.question_pass,
        active=active_parameters(table, args.cost_params) if args.cost_params else None,
        pass_tokens=tokens_of_pass(table) if args.pass_tokens is None else args.pass_tokens,
    )
    budget = args.flops
    if args.cost is not None:
        cost, budget = ColumnCost.from_table(table, args.cost), args.budget
    if budget is None:
        wanted = "--limit, in its unit" if args.cost else "--flops, for example --flops 1e12"
        raise UserError(f"no budget given; give {wanted}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LintWarning)  # the findings are printed below
        fit = _fit_or_blend(table, args)
    chosen = recommend(fit, flops=budget, sizes=args.sizes, tokens=args.tokens, cost=cost, tolerance=args.tolerance)
    loss = None
    if args.choice is not None:
        if len(args.choice) != 2:
            raise UserError(
                f"--choice holds {len(args.choice)} numbers; expected a size in billions and a V, as in 7,576"
            )
        loss = regret(fit, *args.choice, sizes=args.sizes, tokens=args.tokens, cost=cost)
    if args.json:
        law = fit.description if isinstance(fit, Blend) else fit.law.name
        extra = {"law": law, "source": table.source, "lint": [finding.to_dict() for finding in findings]}
        extra |= {"choice": loss} if loss else {}
        print(json.dumps(plain(chosen.to_dict() | extra), indent=1))
    else:
        print(f"{table.units['read']}\n")
        print(render_recommendation(chosen, fit, cost=cost, source=table.source, findings=findings))
        if loss:
            print(render_regret(loss, unit=cost.unit or cost.name))
    return 0


def _fit_or_blend(table: Any, args: argparse.Namespace) -> Any:
    """The law of the table's one suite, or a blend of those with a weight."""
    from vlmlaw.laws.blend import blend_suites
    from vlmlaw.laws.selection import fit_or_choose

    given = pairs(args.weight, option="--weight")
    if not given:
        if len(suites := table.frame["suite"].unique()) > 1:
            all_of_them = " ".join(f"--weight {name}=1" for name in suites)
            raise UserError(
                f"{table.source} holds the suites {', '.join(suites)}; choose one, as in --where suite={suites[0]}, "
                f"or say what each counts: {all_of_them}"
            )
        return fit_or_choose(table, args.law, allow_missing=True)
    try:
        weights = {name: float(weight) for name, weight in given.items()}
    except ValueError:
        raise UserError(f"--weight {args.weight[0]!r}: expected a suite and a number, as in reasoning=2") from None
    return blend_suites(table, weights, law=args.law, allow_missing=True)


def run_lint(args: argparse.Namespace) -> int:
    """Print every finding; exit status 1 where one is an error."""
    import json

    from vlmlaw.laws.linter.lint import lint
    from vlmlaw.laws.render import render_findings

    table = _read(args)
    findings = lint(table, allow_missing=args.allow_missing)
    if args.json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        print(f"{table.units['read']}\n")
        print(render_findings(findings, source=table.source, n_rows=len(table)))
    return int(any(finding.severity == "error" for finding in findings))


def run_list(args: argparse.Namespace) -> int:
    """Print the laws."""
    from vlmlaw.laws.families import LAWS
    from vlmlaw.laws.render import render_table

    print(render_table(["law", "formula", "source"], [[law.name, law.formula, law.source] for law in LAWS.values()]))
    return 0


def _read(args: argparse.Namespace) -> Any:
    from vlmlaw.laws.table import read_expected, read_measurements

    told = _told(args).to_mapping()
    maxima = points(args.maximum, option="--maximum")
    expected = args.expected or told["expected"]
    table = read_measurements(
        args.table,
        {**told["columns"], **pairs(args.column, option="--column")},
        params_unit=args.params_unit or told["params_unit"],
        scale=args.scale or told["scale"],
        scores=args.scores or told["scores"],
        maxima={**told["maxima"], **maxima},
        holds=args.holds or told["holds"],
        expected=read_expected(expected) if expected else (),
    )
    where = {**told["where"], **pairs(args.where, option="--where")}
    return table.select(**where) if where else table


def _options(args: argparse.Namespace) -> Any:
    from dataclasses import fields

    from vlmlaw.laws.options import READING, LawOptions

    told = _told(args)
    names = [option.name for option in fields(LawOptions) if option.name not in READING]
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    given["where"] = {**told.where, **pairs(args.where, option="--where")}
    if isinstance(given.get("hold_out"), str):
        with contextlib.suppress(ValueError):  # a word, which the options check
            given["hold_out"] = float(given["hold_out"])
    return LawOptions.from_mapping(told.to_mapping() | given)


def _told(args: argparse.Namespace) -> Any:
    """The options of the files and settings that were given; flags go before them."""
    from vlmlaw.laws.options import LawOptions

    section = _section(args.options) if getattr(args, "options", None) else {}
    section |= _parsed(args.settings) if getattr(args, "settings", None) else {}
    return LawOptions.from_mapping(section)


def _parsed(text: str) -> dict[str, Any]:
    import json

    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise UserError(f"--settings is no JSON object with law options: {error}") from error


def _section(path: str) -> dict[str, Any]:
    from pathlib import Path

    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} as YAML: {error}") from error
    section = data.get("law", {}) if isinstance(data, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"{path} has no section `law:` with options in it")
    return section


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(",") if part.strip())
