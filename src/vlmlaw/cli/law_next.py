"""`vlmlaw law next`: which cells of a grid to measure next within a budget, and when to stop."""

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from vlmlaw.experiment.experiment import Experiment
    from vlmlaw.laws.best_cell import Deployment
    from vlmlaw.laws.cells import Cells
    from vlmlaw.laws.table import Measurements

TEXT_TOKENS = 250.0  # of a training record, as in LLaVA's mix; for costs where no experiment says more


def add_parser(verbs: Any, *, add_table: Callable[..., None], read: Callable[[argparse.Namespace], Any]) -> None:
    """Add the verb; `add_table` and `read` are those of the other verbs on tables."""
    verb = verbs.add_parser(
        "next",
        help="which cells to measure next within a budget, and when to stop",
        description="Propose the cells of a grid that tell most for their cost, in order, or say that it is enough.",
    )
    add_table(verb)
    grid = verb.add_argument_group("the grid: an experiment file, or sizes and token counts")
    grid.add_argument("--experiment", default=None, metavar="FILE", help="the grid of this experiment file")
    grid.add_argument("--sizes", default="", metavar="N,N", help="sizes in billions")
    grid.add_argument("--tokens", default="", metavar="V,V", help="token counts")
    verb.add_argument("--budget", default=None, metavar="B", help="20h (GPU-hours), or 10%% of the whole grid's cost")
    verb.add_argument("--requests", type=int, default=None, metavar="N", help="budget in requests, for released models")
    verb.add_argument("--questions", type=int, default=None, metavar="N", help="requests that one cell takes")
    verb.add_argument(
        "--until",
        default="side",
        metavar="WORD",
        help="side of 1 (default), rho, to narrow rho and V*, or best, the cell to deploy within --flops",
    )
    verb.add_argument("--flops", type=float, default=None, metavar="F", help="with best: FLOPs for an answer")
    verb.add_argument("--question-tokens", type=float, default=None, metavar="Q", help="with best: default 50")
    verb.add_argument("--level", type=float, default=0.95, metavar="P", help="confidence level (default 0.95)")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=lambda args: run_next(args, read(args)))


def run_next(args: argparse.Namespace, table: "Measurements") -> int:
    """Print the plan of the first suite whose question is open, or that all are settled."""
    import json

    from vlmlaw.laws.analysis import plain
    from vlmlaw.laws.design import cost_of_all, next_cells
    from vlmlaw.laws.linter.lint import require_unmixed
    from vlmlaw.laws.replicates import collapse_questions
    from vlmlaw.laws.table import ALL_KINDS

    require_unmixed(table)
    reading, table = table.units.get("read"), collapse_questions(table)
    grid, unit = _grid(args, table)
    budget, unit = _budget(args, grid, unit)
    asked: dict[str, Any] = {"until": args.until, "deploy": _deployment(args), "level": args.level}
    groups = [group for group in table.groups if group["kind"] == ALL_KINDS] or table.groups
    found = []
    for group in groups:
        plan = next_cells(table.select(**group).cells(), grid, budget=budget, **asked)
        found.append((group["suite"], plan))
        if not plan.settled and not plan.cells.empty:
            break
    suite, plan = found[-1]
    if args.json:
        rho = None if plan.rho is None else plan.rho.to_dict()
        cells = plan.cells.to_dict("records")
        shown = {"suite": suite, "settled": plan.settled, "rho": rho, "unit": unit, "cells": cells}
        print(json.dumps(plain(shown | ({"best": vars(plan.best)} if plan.best else {})), indent=1))
        return 0
    print(f"{reading}\n")
    for suite, plan in found:
        print(_state(suite, plan, asked["deploy"]))
    print("\n" + _proposal(plan, unit=unit, budget=budget, whole=cost_of_all(grid)))
    if plan.settled:
        print(_enough(table.select(**group).cells(), grid, **asked))
    return 0


def _deployment(args: argparse.Namespace) -> "Deployment | None":
    from vlmlaw.laws.best_cell import Deployment

    if args.until != "best":
        for name in ("flops", "question_tokens"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} belongs to --until best; give both")
        return None
    if args.flops is None:
        raise UserError("--until best needs the FLOPs of an answer that the cell may take, as in --flops 1e12")
    return Deployment(args.flops, 50.0 if args.question_tokens is None else args.question_tokens)


def _enough(measured: "Cells", grid: "pd.DataFrame", **asked: Any) -> str:
    """How few of the measured cells would have shown it."""
    import pandas as pd

    from vlmlaw.laws.design import enough

    cells = pd.DataFrame({"N": measured.n, "V": measured.v}).drop_duplicates()
    found = enough(measured, cells.merge(grid, on=["N", "V"]), **asked) if len(cells) else None
    if found is None:
        return ""
    return f"In this order {found[0]} of its {len(cells)} cells would have been enough, {found[1]:.0%} of their cost."


def _state(suite: str, plan: Any, deploy: "Deployment | None") -> str:
    from vlmlaw.laws.best_cell import best_cell_sentence
    from vlmlaw.laws.verdict import ratio_sentence

    title = "measured cells" if suite == "all" else suite
    if plan.rho is None:
        return f"{title}: too few cells for a law yet"
    about = ratio_sentence(plan.rho) if deploy is None else best_cell_sentence(plan.best, deploy)
    return f"{title}: {about}" + (" Settled." if plan.settled else "")


def _proposal(plan: Any, *, unit: str, budget: float, whole: float) -> str:
    from vlmlaw.laws.cells import format_size
    from vlmlaw.laws.render import render_table

    if plan.settled:
        return "Stop: the cells measured so far show what was asked."
    if plan.cells.empty:
        return "Stop: every cell of the grid is measured."
    rows = [
        [str(i + 1), format_size(row.N), f"{row.V:g}", f"{row.cost:.3g}", f"{row.total:.3g}", f"{row.width:.2f}"]
        for i, row in enumerate(plan.cells.itertuples())
    ]
    within = f"within {budget:.4g} of the grid's {whole:.4g} {unit}"
    if budget >= whole:
        within = f"of the grid's {whole:.4g} {unit}, all within the budget of {budget:.4g}"
    head = f"Next, {within}, the most telling for its cost first:"
    table = render_table(["", "N", "V", unit, "so far", "width of the interval, to today's"], rows)
    shared = "A cell of cost 0 has the weights of one before it. " if (plan.cells["cost"] == 0).any() else ""
    tail = (
        shared
        + "Measure them in this order, and ask again after each few: the question may be settled before the last."
    )
    return "\n".join([head, "", table, "", tail])


def _budget(args: argparse.Namespace, grid: "pd.DataFrame", unit: str) -> tuple[float, str]:
    """The budget in the unit of the grid's costs, which requests replace. Raises UserError for one of another unit."""
    if args.requests is not None:
        grid["cost"] = float(args.questions or 1000)
        if "trainings" in grid:  # released models are trained
            del grid["trainings"]
        return float(args.requests), "requests"
    from vlmlaw.laws.design import cost_of_all

    text = (args.budget or "100%").strip().lower()
    number = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*(%|h|)", text)
    if number is None:
        raise UserError(f"--budget is {args.budget!r}; expected hours, as in 20h, or a share of the grid, as in 10%")
    value, of = float(number[1]), number[2]
    if of == "%":
        return value / 100 * cost_of_all(grid), unit
    if of == "h" and unit != "GPU-hours":
        raise UserError(
            "--budget is in hours, and the cost of a cell is not: GPU-hours are estimated from an experiment file with "
            "pretrained models, `records` of its data and compute.gpus; give a share, as in --budget 10%"
        )
    return value, unit


def _grid(args: argparse.Namespace, table: "Measurements") -> "tuple[pd.DataFrame, str]":
    """Every cell of the grid with its cost, and the unit of the costs."""
    import pandas as pd

    if args.experiment:
        from vlmlaw.experiment.experiment import read_experiment

        return _of_experiment(read_experiment(args.experiment), table)
    sizes = _numbers(args.sizes) or sorted(table.frame["N"].unique())
    tokens = _numbers(args.tokens) or sorted(table.frame["V"].unique())
    grid = pd.DataFrame([(float(n), float(v)) for n in sizes for v in tokens], columns=["N", "V"])
    return grid.assign(cost=grid["N"] * (TEXT_TOKENS + grid["V"])), "N (250 + V)"


def _of_experiment(experiment: "Experiment", table: "Measurements") -> "tuple[pd.DataFrame, str]":
    """The cells of an experiment with the trainings that they need, in GPU-hours where those can be estimated."""
    import pandas as pd

    from vlmlaw.experiment.training_costs import training_costs, trainings_of
    from vlmlaw.workflow.proposal import sizes_in_billions

    n_of = sizes_in_billions(experiment, table)
    costs, unit = training_costs(experiment)
    needed: dict[tuple[float, float], dict[str, float]] = {}
    for cell in experiment.cells.values():
        place = n_of[cell.size], float(cell.n_visual_tokens or experiment.grid_side**2)
        needed.setdefault(place, {}).update({name: costs[name] for name in trainings_of(experiment, cell)})
    rows = [(n, v, sum(own.values()), own) for (n, v), own in needed.items()]
    return pd.DataFrame(rows, columns=["N", "V", "cost", "trainings"]), unit


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{text!r} is no list of numbers; expected for example 0.5,1.8,7") from None
