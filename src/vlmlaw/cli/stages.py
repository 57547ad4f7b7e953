"""The stages as verbs of the command line: inputs and outputs as arguments, settings from a file or as JSON.

A rule passes `--settings`, just what its result depends on; a person passes `--experiment params.yaml` and, where a
file holds several, which one (`--split`, `--size`, `--cell`). Both end in the same settings.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlmlaw.cli.arguments import existing, file, folder_of
from vlmlaw.data.settings import DataSettings, SplitSettings, TokenSettings
from vlmlaw.errors import UserError
from vlmlaw.evaluation.settings import EvaluationSettings, LatencySettings
from vlmlaw.experiment.design_round import read_round
from vlmlaw.experiment.experiment import Experiment, read_experiment
from vlmlaw.experiment.file import SPLITS
from vlmlaw.hub.settings import ModelSettings, TokenizerSettings, TowerSettings
from vlmlaw.settings import as_data, from_json
from vlmlaw.training.settings import CellSettings, ComputeSettings, PatchSettings, SizeSettings, VisionSettings
from vlmlaw.vlm.cell_name import MeasuredCell

MODEL = folder_of("config.json", "model.json")  # trained here, or fetched
DATASET = folder_of("index.npz")
INPUTS = {
    "train": (DATASET, "the training pictures: data/train"),
    "development": (DATASET, "the development pictures: data/development"),
    "dataset": (DATASET, "a dataset's folder: data/SPLIT"),
    "tokenizer": (folder_of("tokenizer.json"), "the tokenizer's folder: data/tokenizer"),
    "tokens": (file, "conversations as tokens: tokens/SPLIT.npz"),
    "images": (existing, "cached features, features/SPLIT, or the dataset's folder"),
    "encoder": (MODEL, "the vision tower's folder: encoder"),
    "language-model": (MODEL, "the language model's folder: language_models/SIZE"),
    "model": (folder_of("config.json"), "model/ of the cell, or of the training that it shares"),
    "law": (file, "what `vlmlaw law fit --out` wrote: law/law.json"),
    "measurements": (file, "the table that the law was fitted to: measurements.csv"),
    "cells": (existing, "the folder of all cells"),
    "results": (existing, "the experiment's results folder"),
}


def add_parsers(subparsers: Any) -> None:
    """Add the verbs of data, encoder, language models, training, evaluation and collection."""
    _add_data(subparsers)
    _add_models(subparsers)
    _add_fetch(subparsers)
    chat = subparsers.add_parser("chat", help="ask a trained cell a question about an image")
    chat.add_argument("cell", help="a cell's name in results/cells, or its folder")
    chat.add_argument("asked", nargs="+", metavar="[IMAGE] QUESTION", help="an image's file, and what to ask about it")
    chat.add_argument("--results", default="results", metavar="DIR", help="the experiment's results folder")
    chat.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    chat.set_defaults(run=run_chat)
    _add_latency(subparsers)
    practice = _verb(subparsers, "practice", run_practice, "make tiny models and data to try a real experiment on")
    practice.add_argument("--seed", type=int, default=0, metavar="N")
    practice.add_argument(
        "--language-models", choices=("qwen2", "gemma2"), default="qwen2", help="gemma2: with windows and soft caps"
    )
    practice.add_argument("--vision", choices=("clip", "dinov2"), default="clip", help="dinov2: with registers")
    inputs = ("language-model", "encoder", "tokens", "images")
    align = _verb(subparsers, "align", run_align, "stage 1 of a cell: train its compressor and projector", *inputs)
    train = _verb(subparsers, "train", run_train, "train one cell", *inputs)
    train.add_argument("--aligned", nargs="?", type=existing, metavar="PATH", help="stage 1's connector.safetensors")
    for parser in (align, train):
        _settings_options(parser, "cell", checkpoints=True)
        parser.add_argument("--compute", metavar="JSON", help="how to use the machine; it changes rounding at most")
    evaluate = _verb(subparsers, "evaluate", run_evaluate, "evaluate a cell", "model", "dataset", "tokens", "images")
    _settings_options(evaluate)
    evaluate.add_argument(
        "--cell", metavar="JSON", help="which cell, where the model's weights serve several (what a rule passes)"
    )
    explain = _verb(subparsers, "explain", run_explain, "questions that explain the law", "cells")
    for option in ("dataset", "tokens", "images"):
        kind, told = INPUTS[option]
        explain.add_argument(f"--{option}", type=kind, metavar="PATH", help=f"of the test split: {told}")
    _settings_options(explain)
    card = _verb(subparsers, "card", run_card, "write a cell's model card from its evaluations", "model")
    card.add_argument(
        "scores", nargs="+", type=existing, metavar="SCORES", help="the cell's evaluation.json and benchmarks/NAME.json"
    )
    cards = _verb(subparsers, "cards", run_cards, "write the model cards of all cells")
    cards.add_argument("--cells", required=True, type=existing, metavar="DIR", help="the folder of all cells")
    cards.add_argument("--experiment", required=True, metavar="FILE", help="the experiment file (or its JSON)")
    _design_option(cards)
    collect = _verb(subparsers, "collect", run_collect, "collect evaluations into one table")
    collect.add_argument("evaluations", nargs="*", type=Path, metavar="EVALUATION", help="evaluation.json of a cell")
    collect.add_argument("--cells", type=Path, metavar="DIR", help="in place of them: the folder of all cells")
    collect.add_argument("--experiment", metavar="FILE", help="with --cells: the experiment file (or its JSON)")
    collect.add_argument("--latency", type=file, metavar="JSON", help="milliseconds: what `vlmlaw latency --out` wrote")
    collect.add_argument("--held-out", default=None, metavar="SIZE", help="the size that the law predicts, not fits")
    _design_option(collect)
    propose = _verb(subparsers, "propose", run_propose, "a round of a design: which cells to train next, or why none")
    propose.add_argument("--cells", required=True, type=Path, metavar="DIR", help="the folder of all cells")
    propose.add_argument("--experiment", required=True, metavar="FILE", help="the experiment file (or its JSON)")
    propose.add_argument("--settings", required=True, metavar="JSON", help="what is asked (what a rule passes)")
    propose.add_argument("--before", nargs="?", type=existing, metavar="FILE", help="the round before, if any")
    _verb(subparsers, "headline", run_headline, "the study in a few numbers", "law", "measurements", "results")


def _add_latency(subparsers: Any) -> None:
    latency = subparsers.add_parser(
        "latency",
        help="milliseconds to the first token of an answer, by part",
        description="Milliseconds to the first token of trained cells' answers or, without a CELL, of every cell of "
        "the experiment: by its shape alone, so before any training.",
    )
    latency.add_argument("cells", nargs="*", metavar="CELL", help="a trained cell's name")
    latency.add_argument("--experiment", default="params.yaml", metavar="FILE", help="the experiment that it is of")
    latency.add_argument("--settings", metavar="JSON", help="in place of it: shapes and lengths (what a rule passes)")
    latency.add_argument("--out", type=Path, metavar="JSON", help="without a CELL: the file to make")
    latency.add_argument("--text-tokens", type=int, metavar="Q", help="beside the image (default: 16)")
    latency.add_argument("--question-tokens", type=int, metavar="q", help="of them the question alone (default: 7)")
    latency.add_argument("--repeats", type=int, metavar="N", help="passes (default: 20)")
    latency.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: 1)")
    latency.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the arithmetic (default: float32)")
    latency.set_defaults(run=run_latency)


def _design_option(parser: Any) -> None:
    parser.add_argument("--design", type=file, metavar="FILE", help="of a design its last round: the cells are those")


def _add_data(subparsers: Any) -> None:
    data = subparsers.add_parser("data", help="draw pictures, write text, build the tokenizer, tokenize")
    verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    pictures = _verb(verbs, "pictures", run_pictures, "draw one split's pictures and questions")
    pictures.add_argument("--split", required=True, choices=SPLITS)
    _settings_options(pictures)
    _settings_options(_verb(verbs, "text", run_text, "write the text for pretraining"))
    _verb(verbs, "tokenizer", run_tokenizer, "build the tokenizer")
    tokenize = _verb(verbs, "tokenize", run_tokenize, "conversations to tokens", "dataset", "tokenizer")
    tokenize.add_argument("--split", metavar="NAME", help="with --experiment: which split")
    _settings_options(tokenize)
    prepare = _verb(verbs, "prepare", run_prepare, "read one split's LLaVA-style files and resize their images")
    prepare.add_argument("--split", metavar="NAME", help="with --experiment: which split")
    prepare.add_argument("--threads", type=int, default=1, metavar="N", help="of decoding and resizing")
    _settings_options(prepare)


def _add_models(subparsers: Any) -> None:
    encoder = subparsers.add_parser("encoder", help="train the vision encoder, cache its features")
    verbs = encoder.add_subparsers(dest="encoder_verb", metavar="VERB", required=True)
    train = _verb(verbs, "train", run_encoder, "train the vision encoder", "train", "development")
    _settings_options(train, checkpoints=True)
    _settings_options(_verb(verbs, "patches", run_patches, "take pixels, patch by patch, in an encoder's place"))
    features = _verb(verbs, "features", run_features, "cache a dataset's patch features", "encoder", "dataset")
    features.add_argument("--layers", required=True, nargs="+", type=int, metavar="N", help="hidden states to keep")
    language_model = _verb(
        subparsers, "language-model", run_language_model, "pretrain a language model on text", "tokens", "tokenizer"
    )
    _settings_options(language_model, "size", checkpoints=True)
    language_model.add_argument(
        "--seed", type=int, default=0, metavar="N", help="with --experiment: of which cells, if each seed is pretrained"
    )


def _add_fetch(subparsers: Any) -> None:
    fetch = subparsers.add_parser("fetch", help="take tokenizer, tower and language models of the hub or of folders")
    verbs = fetch.add_subparsers(dest="fetch_verb", metavar="VERB", required=True)
    _settings_options(_verb(verbs, "tokenizer", run_fetch_tokenizer, "take the tokenizer that all sizes share"))
    _settings_options(_verb(verbs, "vision", run_fetch_vision, "fetch the vision tower"))
    model = _verb(verbs, "language-model", run_fetch_language_model, "fetch one size's language model", "tokenizer")
    _settings_options(model, "size")


def _verb(verbs: Any, name: str, run: Callable[..., int | None], help_text: str, *inputs: str) -> Any:
    """A verb with one option for each input and `--out`."""
    parser = verbs.add_parser(name, help=help_text)
    for option in inputs:
        kind, told = INPUTS[option]
        parser.add_argument(f"--{option}", required=True, type=kind, metavar="PATH", help=told)
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="what to make; replaced when it exists")
    parser.set_defaults(run=run)
    return parser


def _settings_options(parser: Any, selector: str | None = None, *, checkpoints: bool = False) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--settings", metavar="JSON", help="the stage's settings (what a rule passes)")
    source.add_argument("--experiment", metavar="FILE", help="an experiment file, for example params.yaml")
    if selector:
        parser.add_argument(f"--{selector}", metavar="NAME", help=f"with --experiment: which {selector}")
    if checkpoints:
        parser.add_argument("--checkpoint-seconds", type=float, metavar="S", help="time between checkpoints")


def _settings(args: argparse.Namespace, kind: type, part: Callable[[Experiment], Any]) -> Any:
    """The stage's settings, of whichever source was given. Raises UserError where the experiment has no such stage."""
    if args.settings is not None:
        return from_json(kind, args.settings)
    experiment = read_experiment(args.experiment)
    settings = part(experiment)
    if not isinstance(settings, kind):
        raise UserError(
            f"{args.experiment} has no such stage: its data have the source {experiment.data.source}. "
            f"`snakemake --dry-run --configfile {args.experiment}` lists the stages that it has."
        )
    return settings


def _chosen(args: argparse.Namespace, selector: str) -> str:
    name = getattr(args, selector)
    if name is None:
        raise UserError(f"--{selector} is missing; `vlmlaw experiment check {args.experiment}` lists what there is.")
    return name


def _with_checkpoints(args: argparse.Namespace, settings: Any, section: str) -> Any:
    if args.checkpoint_seconds is None:
        return settings
    own = replace(getattr(settings, section), checkpoint_seconds=args.checkpoint_seconds)
    return replace(settings, **{section: own})


def _compute(args: argparse.Namespace) -> ComputeSettings:
    if args.compute is not None:
        return from_json(ComputeSettings, args.compute, where="--compute")
    return ComputeSettings() if args.experiment is None else read_experiment(args.experiment).compute


def _carry_on(args: argparse.Namespace, settings: Any, code: str, *inputs: Path) -> None:
    """Say whether an interrupted training goes on; a checkpoint of any other training is thrown away."""
    from vlmlaw.runtime.workspace import workspace_of
    from vlmlaw.workflow.checkpoint_owner import claim

    if claim(workspace_of(args.out), code=code, settings=settings, inputs=inputs):
        print(f"carrying on with the interrupted training in {workspace_of(args.out)}", file=sys.stderr)


def run_pictures(args: argparse.Namespace) -> None:
    from vlmlaw.data.miniature.write import draw_split

    settings = _settings(args, DataSettings, lambda experiment: experiment.picture_settings(args.split))
    draw_split(args.out, split=args.split, settings=settings)


def run_text(args: argparse.Namespace) -> None:
    from vlmlaw.data.miniature.write import write_corpus

    write_corpus(args.out, settings=_settings(args, DataSettings, lambda experiment: experiment.text_settings))


def run_tokenizer(args: argparse.Namespace) -> None:
    from vlmlaw.data.miniature.write import write_tokenizer

    write_tokenizer(args.out)


def run_tokenize(args: argparse.Namespace) -> None:
    from vlmlaw.tokens.token_table import tokenize_dataset

    settings = _settings(args, TokenSettings, lambda experiment: experiment.token_settings(_chosen(args, "split")))
    tokenize_dataset(args.dataset, args.tokenizer, args.out, settings=settings)


def run_prepare(args: argparse.Namespace) -> None:
    from vlmlaw.data.llava import prepare_split

    settings = _settings(args, SplitSettings, lambda experiment: experiment.picture_settings(_chosen(args, "split")))
    prepare_split(args.out, settings=settings, n_threads=args.threads)


def run_chat(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.chat import ask, find_model

    *images, question = args.asked
    folder, cell = find_model(args.cell, results=Path(args.results))
    image = Path(images[0]) if images else None
    print(ask(folder, image, question, max_new_tokens=args.max_new_tokens, cell=cell))


def run_latency(args: argparse.Namespace) -> None:
    names = ("text_tokens", "question_tokens", "repeats", "threads", "dtype")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.cells:
        _time_trained_cells(args, given)
        return
    from vlmlaw.evaluation.latency_grid import measure_grid, rows_of_latency
    from vlmlaw.evaluation.settings import LatencyPlan
    from vlmlaw.experiment.latency import latency_plan

    plan = from_json(LatencyPlan, args.settings) if args.settings else latency_plan(read_experiment(args.experiment))
    own = from_json(LatencySettings, json.dumps(as_data(plan.latency) | given), where="latency")
    with TemporaryDirectory() as folder:
        out = args.out or Path(folder) / "latency.json"
        measure_grid(replace(plan, latency=own), out)
        for line in rows_of_latency(out):
            print(line)


def _time_trained_cells(args: argparse.Namespace, given: dict[str, Any]) -> None:
    import torch

    from vlmlaw.evaluation.latency import latency_table

    if args.out or args.settings:
        raise UserError("--out and --settings are for the whole grid; leave them out, or name no CELL.")
    torch.set_num_threads(given.get("threads", 1))
    lengths = {"n_text_tokens": given.get("text_tokens", 16), "question_tokens": given.get("question_tokens", 7)}
    asked: Any = {**lengths, "n_repeats": given.get("repeats", 20), "dtype": given.get("dtype", "float32")}
    experiment = read_experiment(args.experiment)
    cells = {name: (experiment.model_of(name), experiment.cell_settings(name).measured) for name in args.cells}
    for line in latency_table(cells, **asked):
        print(line, flush=True)


def run_practice(args: argparse.Namespace) -> None:
    from vlmlaw.data.practice import write_practice

    write_practice(args.out, seed=args.seed, language_models=args.language_models, vision=args.vision)


def run_fetch_tokenizer(args: argparse.Namespace) -> None:
    from vlmlaw.tokens.tokenizer import take_tokenizer

    take_tokenizer(args.out, settings=_settings(args, TokenizerSettings, lambda e: e.tokenizer_settings))


def run_fetch_vision(args: argparse.Namespace) -> None:
    from vlmlaw.training.pretrained import fetch_vision

    fetch_vision(args.out, settings=_settings(args, TowerSettings, lambda e: e.encoder_settings))


def run_fetch_language_model(args: argparse.Namespace) -> None:
    from vlmlaw.training.pretrained import fetch_language_model

    settings = _settings(args, ModelSettings, lambda e: e.size_settings(_chosen(args, "size")))
    fetch_language_model(args.tokenizer, args.out, settings=settings)


def run_encoder(args: argparse.Namespace) -> None:
    from vlmlaw.training.encoder import train_encoder

    settings = _settings(args, VisionSettings, lambda experiment: experiment.encoder_settings)
    settings = _with_checkpoints(args, settings, "training")
    _carry_on(args, settings, "vlmlaw.training.encoder:train_encoder", args.train, args.development)
    train_encoder(args.train, args.development, args.out, settings=settings)


def run_patches(args: argparse.Namespace) -> None:
    from vlmlaw.training.patches import write_patch_tower

    write_patch_tower(args.out, settings=_settings(args, PatchSettings, lambda experiment: experiment.encoder_settings))


def run_features(args: argparse.Namespace) -> None:
    from vlmlaw.training.features import cache_features

    cache_features(args.encoder, args.dataset, args.out, layers=args.layers)


def run_language_model(args: argparse.Namespace) -> None:
    from vlmlaw.training.language_model import pretrain

    settings = _settings(args, SizeSettings, lambda e: e.size_settings(_chosen(args, "size"), seed=args.seed))
    settings = _with_checkpoints(args, settings, "pretraining")
    _carry_on(args, settings, "vlmlaw.training.language_model:pretrain", args.tokens, args.tokenizer)
    pretrain(args.tokens, args.tokenizer, args.out, settings=settings)


def run_align(args: argparse.Namespace) -> int | None:
    settings = _settings(args, CellSettings, lambda e: e.stage_1_of(e.training_settings_of(_chosen(args, "cell"))))
    return _run_training(args, settings)


def run_train(args: argparse.Namespace) -> int | None:
    settings = _settings(args, CellSettings, lambda e: e.training_settings_of(_chosen(args, "cell")))
    return _run_training(args, settings)


def _run_training(args: argparse.Namespace, settings: CellSettings) -> int | None:
    """Either stage of a cell, in as many processes as it is to have."""
    from vlmlaw.training import distributed

    compute = _compute(args)
    if compute.n_processes > 1 and not distributed.is_launched():
        return distributed.launch(args.argv, n_processes=compute.n_processes)
    from vlmlaw.training.cell import align_cell, train_cell

    settings = _with_checkpoints(args, settings, "training")
    inputs = (args.language_model, args.encoder, args.tokens, args.images)
    aligned = getattr(args, "aligned", None)
    if distributed.rank() == 0:  # the others wait for it when they join
        code = (
            "vlmlaw.training.cell:train_cell" if settings.trains_language_model else "vlmlaw.training.cell:align_cell"
        )
        _carry_on(args, settings, code, *inputs, *([aligned] if aligned else []))
    if settings.trains_language_model:
        train_cell(*inputs, args.out, settings=settings, compute=compute, aligned=aligned)
    else:
        align_cell(*inputs, args.out, settings=settings, compute=compute)
    return None


def run_evaluate(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.test_split import evaluate_cell

    settings = _settings(args, EvaluationSettings, lambda experiment: experiment.evaluation)
    cell = from_json(MeasuredCell, args.cell, where="--cell") if args.cell else None
    evaluate_cell(args.model, args.dataset, args.tokens, args.images, args.out, settings=settings, cell=cell)


def run_explain(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.explain import TestFiles, explain
    from vlmlaw.evaluation.settings import ExplainPlan
    from vlmlaw.experiment.explain import explain_plan

    plan = _settings(args, ExplainPlan, explain_plan)
    files = [args.dataset, args.tokens, args.images]
    if any(files) and not all(files):
        raise UserError("the test split is --dataset, --tokens and --images together; give all, or none.")
    if not any(files) and not plan.benchmarks:
        raise UserError("nothing to compare: give the test split (--dataset, --tokens, --images), or name benchmarks.")
    explain(args.cells, args.out, plan=plan, test=TestFiles(*files) if all(files) else None)


def run_card(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.card import card_of

    card_of(args.scores, args.model, args.out)


def run_cards(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.card import write_cards

    experiment = _whole(args.experiment)
    cells = _cells_of(experiment, args.design)
    write_cards(args.cells, dict.fromkeys(cells, experiment.evaluations))
    if args.design:
        from vlmlaw.report.design import index_of_cells
        from vlmlaw.runtime.whole_files import whole_file

        with whole_file(args.cells / "README.md") as partial:
            partial.write_text(index_of_cells(read_round(args.design)), encoding="utf-8")


def _cells_of(experiment: Experiment, design: Path | None) -> list[str]:
    """The cells that were measured: all of the grid, or those that a design chose."""
    return list(experiment.cells) if design is None else list(read_round(design)["measured"])


def run_propose(args: argparse.Namespace) -> None:
    import json

    from vlmlaw.workflow.proposal import propose

    args.out.parent.mkdir(parents=True, exist_ok=True)
    asked = json.loads(args.settings)
    propose(args.cells, args.out, experiment=_whole(args.experiment), asked=asked, before=args.before)


def run_collect(args: argparse.Namespace) -> None:
    from vlmlaw.evaluation.measurements import collect

    if bool(args.evaluations) == bool(args.cells):
        raise UserError("give evaluations, or the folder of all cells with --cells and --experiment.")
    collect(args.evaluations or _evaluations(args), args.out, held_out=args.held_out or None)
    if args.latency:
        from vlmlaw.evaluation.latency_grid import add_latency

        add_latency(args.out, args.latency)


def _evaluations(args: argparse.Namespace) -> list[Path]:
    """The evaluations of every cell of an experiment: thousands of paths are too long for a command line."""
    if args.experiment is None:
        raise UserError("--cells needs --experiment FILE, whose cells are collected.")
    experiment = _whole(args.experiment)
    cells = _cells_of(experiment, args.design)
    return [args.cells / cell / name for cell in cells for name in experiment.evaluations]


def _whole(experiment: str) -> Experiment:
    """The experiment of a file, or of its JSON."""
    if experiment.lstrip().startswith("{"):
        return from_json(Experiment, experiment, where="--experiment")
    return read_experiment(experiment)


def run_headline(args: argparse.Namespace) -> None:
    from vlmlaw.workflow.dvc_metrics import write_headline

    write_headline(args.law, args.measurements, args.results, args.out)
