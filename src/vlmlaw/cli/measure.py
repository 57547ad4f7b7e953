"""`vlmlaw measure`: released models on one's own questions, at several numbers of visual tokens."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmlaw.cli.values import pairs


def add_parser(subparsers: Any) -> None:
    """Add the verb `measure`."""
    parser = subparsers.add_parser(
        "measure",
        help="which model, at how many visual tokens: ask models your own questions",
        description="Ask every model every question at every number of visual tokens; print and write errors with "
        "intervals, times, and the cheapest setting that is good enough. A second run resumes from the first one's "
        "replies.",
    )
    _add_questions(parser)
    _add_models(parser.add_argument_group("who is asked"))
    _add_asking(parser.add_argument_group("how they are asked"))
    _add_decision(parser.add_argument_group("what is decided"))
    parser.set_defaults(run=run_measure)


def _add_questions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("questions", type=Path, metavar="QUESTIONS", help="JSON lines, a CSV, or a folder with one")
    parser.add_argument("--images", type=Path, metavar="DIR", help="of the images; default: that of the questions")
    parser.add_argument("--question", metavar="TEXT", help="what is asked of every image of a CSV without questions")
    parser.add_argument("--metric", metavar="NAME", help="how replies are judged; default: by the form of the answers")
    parser.add_argument("--instruction", metavar="TEXT", help="what follows each question; default: the metric's")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="of a reply; default: the metric's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: measured/NAME, after the questions")


def _add_models(group: Any) -> None:
    group.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server, http://127.0.0.1:8000/v1")
    group.add_argument("--model", action="append", default=[], metavar="NAME", help="as the server names it; repeat")
    group.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="DIR|ID[@REV]",
        help="a released model, loaded here",
    )
    group.add_argument(
        "--compressor",
        action="append",
        default=[],
        metavar="NAME",
        help="of checkpoints: V by a training-free compressor on their image features, as divprune, tome; repeat; "
        "`own` for the processor's knob, which is the default",
    )
    group.add_argument("--dtype", default="auto", metavar="TYPE", help="of checkpoints; default: as released")
    group.add_argument("--cell", action="append", default=[], type=Path, metavar="DIR", help="a cell trained here")
    group.add_argument("--family", action="append", default=[], metavar="[NAME=]FAMILY", help="where no name tells it")
    group.add_argument("--params", action="append", default=[], metavar="NAME=7B", help="where no name tells it")


def _add_asking(group: Any) -> None:
    group.add_argument(
        "--visual-tokens", nargs="+", default=["0", "max"], metavar="V", help="for each image; 0 none, max its own"
    )
    group.add_argument(
        "--concurrency",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="questions at a time (default 1); with several, a server is timed under each as well",
    )
    group.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds for one reply (300)")
    group.add_argument("--patience", type=float, default=600.0, metavar="S", help="seconds a server may be away (600)")


def _add_decision(group: Any) -> None:
    group.add_argument("--cost", default="ms", metavar="WORD", help="ms (default), first-ms, tokens, flops, money")
    group.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="NAME=IN/OUT",
        help="for a million tokens, or X/h for an hour of its machine",
    )
    group.add_argument(
        "--speed", action="append", default=[], metavar="CELL=JSON", help="times of vllm bench, GuideLLM or AIPerf"
    )
    group.add_argument("--limit-ms", type=float, metavar="MS", help="what 95 of 100 replies must not take longer than")
    group.add_argument("--worse-by", type=float, default=0.02, metavar="X", help="error that may be lost (0.02)")
    group.add_argument("--level", type=float, default=0.95, metavar="P", help="confidence of every statement (0.95)")


def run_measure(args: argparse.Namespace) -> int:
    """Ask, judge, print, write."""
    from vlmlaw.evaluation.measuring.cells import cells_of, read_budget
    from vlmlaw.evaluation.measuring.decide import check_costs
    from vlmlaw.evaluation.measuring.questions_of import read_question_set
    from vlmlaw.evaluation.measuring.run import ask_all
    from vlmlaw.evaluation.measuring.speed_files import check_cells, read_speed, with_speed
    from vlmlaw.report.measured_files import write_measured
    from vlmlaw.report.measured_terminal import in_words

    _require_sane(args)
    wishes = _wishes(args)
    speed = {cell: read_speed(Path(path)) for cell, path in pairs(args.speed, option="--speed").items()}
    asked = read_question_set(args.questions, images=args.images, metric=args.metric, question=args.question)
    models, backends = _open(args)
    check_costs(wishes, models)
    cells = cells_of(models, [read_budget(text) for text in args.visual_tokens])
    check_cells(speed, [cell.name for cell in cells])
    out = args.out or Path("measured") / asked.name
    instruction = asked.metric.instruction if args.instruction is None else args.instruction
    max_new_tokens = args.max_new_tokens or asked.metric.max_new_tokens
    measured = ask_all(
        asked,
        cells,
        backends,
        out=out,
        instruction=instruction,
        max_new_tokens=max_new_tokens,
        concurrency=args.concurrency[0],
        levels=args.concurrency if len(args.concurrency) > 1 else (),
    )
    measured = replace(measured, table=with_speed(measured.table, speed))
    facts = _facts(args, asked, instruction, max_new_tokens)
    print(in_words(write_measured(measured, wishes, metric=asked.metric_name, out=out, facts=facts)))
    print(f"\nwritten: {out / 'index.html'}, with cells.csv, questions.csv and the replies beside it")
    return 1 if measured.incomplete else 0


def _require_sane(args: argparse.Namespace) -> None:
    from vlmlaw.errors import UserError

    if not args.model and not args.cell and not args.checkpoint:
        raise UserError(
            "no model is named; give --model NAME of a server, --checkpoint DIR or ID of a released model, or --cell "
            "DIR, each as often as there are models."
        )
    if args.model and not args.endpoint:
        raise UserError(f"--model {args.model[0]} has no server; give --endpoint URL, as http://127.0.0.1:8000/v1.")
    if args.images and not args.images.is_dir():
        raise UserError(f"--images: {args.images} is no folder; expected that of the images which the questions name.")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out: {args.out} is a file; expected a folder for page, tables and replies.")
    if args.compressor and not args.checkpoint:
        raise UserError(
            f"--compressor {args.compressor[0]} is for a --checkpoint, whose image features it makes fewer; a server "
            "does not give them out."
        )
    if doubled := next((name for name in args.compressor if args.compressor.count(name) > 1), ""):
        raise UserError(f"--compressor {doubled} is there twice; name each once.")
    given = [(name, getattr(args, name)) for name in ("timeout", "patience", "max_new_tokens", "limit_ms")]
    for name, value in [*given, *(("concurrency", n) for n in args.concurrency)]:
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')}: found {value}; expected a number above 0.")
    if len(args.concurrency) > 1 and (args.checkpoint or args.cell):
        raise UserError(
            f"--concurrency {' '.join(map(str, args.concurrency))}: a model that is loaded here answers one question "
            "at a time; only a server can be timed under load. Give one number, or --endpoint and --model alone."
        )


def _facts(args: argparse.Namespace, asked: Any, instruction: str, max_new_tokens: int) -> dict[str, str]:
    """What was asked, of whom and how, for the page. The key and names within the address are not among it."""
    from vlmlaw.evaluation.backends.address import shown

    whom = {"server": shown(args.endpoint)} if args.endpoint else {}
    return {
        "questions": f"{asked.source} ({len(asked.questions)}), judged by {asked.metric_name}",
        **whom,
        "models": ", ".join([*args.model, *args.checkpoint, *map(str, args.cell)]),
        "visual tokens": " ".join(args.visual_tokens),
        **({"compressors": ", ".join(args.compressor)} if args.compressor else {}),
        "after each question": instruction or "nothing",
        "longest reply": f"{max_new_tokens} tokens, greedy",
        "questions at a time": _levels(args.concurrency),
    }


def _levels(concurrency: list[int]) -> str:
    first, *more = map(str, concurrency)
    return f"{first}; under load {', '.join([first, *more])}" if more else first


def _wishes(args: argparse.Namespace) -> Any:
    """What the user wants of a cell. Raises UserError for a price that is none, or an unknown cost."""
    from vlmlaw.errors import UserError
    from vlmlaw.evaluation.measuring.decide import COSTS, Wishes
    from vlmlaw.evaluation.measuring.prices import Price

    prices = {
        name: Price.parse(text, where=f"--price {name}") for name, text in pairs(args.price, option="--price").items()
    }
    if args.cost not in COSTS:
        raise UserError(f"--cost: found {args.cost!r}; expected one of {', '.join(COSTS)}.")
    if not 0.5 <= args.level < 1 or not 0 <= args.worse_by < 1:
        raise UserError(f"--level is {args.level} and --worse-by {args.worse_by}; expected 0.5 to 1, and 0 to 1.")
    return Wishes(cost=args.cost, worse_by=args.worse_by, level=args.level, limit_ms=args.limit_ms, prices=prices)


def _open(args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """The models with their back ends."""
    from vlmlaw.errors import UserError
    from vlmlaw.evaluation.measuring.cells import OWN, Model

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
    for place in args.checkpoint:
        from vlmlaw.evaluation.backends.checkpoint import Checkpoint
        from vlmlaw.evaluation.backends.compressed import Compressed

        own, wanted = Checkpoint(place, dtype=args.dtype), args.compressor
        _add(own, models, backends, has_knob=not wanted or OWN in wanted)
        for name in wanted:
            if name != OWN:
                _add(Compressed(own, name), models, backends, compressor=name)
    for folder in args.cell:
        from vlmlaw.evaluation.backends.trained_cell import TrainedCell

        _add(TrainedCell(folder), models, backends)
    return models, backends


def _add(backend: Any, models: list[Any], backends: dict[str, Any], **asked: Any) -> None:
    """Add a model that is loaded here. Raises UserError where its name is taken."""
    from vlmlaw.errors import UserError
    from vlmlaw.evaluation.measuring.cells import Model

    if backend.name in backends:
        raise UserError(f"two models are called {backend.name!r}, and would have one folder; name each once.")
    models.append(Model(name=backend.name, family=backend.family, n_params=backend.n_params, **asked))
    backends[backend.name] = backend
