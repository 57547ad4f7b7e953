"""The table of stages: all that the workflow has to know about each stage, in one place.

A row names a rule of Snakemake, the verb that does its work, the code and settings that its result depends on, what it
reads of other stages and which files it makes. Rules, logs, records, the lineage of a result, status and the
dependencies for DVC follow from the rows. `stages_of(experiment)` is the table of one experiment: models that the
miniature trains are fetched in an experiment with pretrained models.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vlmlaw.experiment.describe import described
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.experiment.explain import explain_plan
from vlmlaw.experiment.latency import latency_plan
from vlmlaw.experiment.memory import evaluation_batch
from vlmlaw.experiment.sections import PatchVision
from vlmlaw.laws.options import READING
from vlmlaw.report.templates_version import templates_version
from vlmlaw.settings import to_json
from vlmlaw.training.settings import CellSettings
from vlmlaw.vlm.cell_name import cell_named_in
from vlmlaw.workflow.design import FOLDER as DESIGN_FOLDER
from vlmlaw.workflow.design import Design, design_of
from vlmlaw.workflow.reads import Reads, evaluations_of, training_of, whole_as_json
from vlmlaw.workflow.stage import (
    CELL,
    CELL_MODEL,
    ELASTIC,
    FETCHED,
    LANGUAGE_MODEL,
    MODEL,
    PICTURES,
    PROPOSE,
    TOKENIZER,
    Read,
    Stage,
    Wildcards,
    wildcards_of,
)

FIGURES = {  # of the page, with their category and title in Snakemake's own report
    "error_against_tokens": ("Law", "error against visual tokens"),
    "error_against_flops": ("Law", "error against FLOPs, frontier"),
    "error_against_time": ("Law", "error against measured time"),
    "time_against_flops": ("Measurements", "2N(Q + V) against the clock"),
    "best_tokens": ("Law", "best number of visual tokens"),
    "contour": ("Law", "error over size and tokens"),
    "grid": ("Measurements", "measured grid"),
    "kinds": ("Measurements", "error by kind of question"),
    "training": ("Measurements", "training curves"),
    "predicted": ("Trust", "measured against predicted"),
    "residuals": ("Trust", "residuals"),
    "profiles": ("Trust", "profiles of rho and D"),
}
OF_TIME = ("error_against_time", "time_against_flops")  # figures of an experiment with `latency`


def stages_of(experiment: Experiment, design: Design | None = None) -> dict[str, Stage]:
    """Return every stage that the experiment may have, by its rule, in the order of the work.

    `design` is the experiment's, whose rounds say which cells there are; None: it is made here if there is one.
    """
    design = design or design_of(experiment)
    of = Reads(experiment, design)
    before = (_prepared_data, _fetched_models) if experiment.pretrained else (_made_data, _trained_models)
    parts = (*before, _inputs, _trainings, _test, _benchmarks, _latency, _measurements, _explained, _conclusions)
    stages = {stage.rule: stage for part in parts for stage in part(of)}
    if design is not None:
        design.stages = stages
    return stages


def _made_data(of: Reads) -> list[Stage]:
    """Stages for the miniature's pictures and text, and for the tokenizer of both."""
    experiment = of.experiment
    return [
        Stage(
            rule="draw_pictures",
            message="Draw the pictures and questions of the {wildcards.split} split",
            command="data pictures --split {split} --settings {settings} --out {out/}",
            code=("vlmlaw.data.miniature.write:draw_split",),
            folder="data/{split}",
            files=(*PICTURES, "patch_labels.npz"),
            params=of.settings(lambda w: experiment.picture_settings(w["split"])),
            lasts=False,
            memory_mb=1000,
            minutes=30,
            first=True,
        ),
        Stage(
            rule="write_text",
            message="Write the text that the language models are pretrained on",
            command="data text --settings {settings} --out {out/}",
            code=("vlmlaw.data.miniature.write:write_corpus",),
            folder="data/text",
            files=("index.npz", "conversations.json"),
            params=of.settings(lambda _: experiment.text_settings),
            lasts=False,
            memory_mb=1000,
            minutes=30,
            local=True,
            first=True,
        ),
        Stage(
            rule="build_tokenizer",
            message="Build the tokenizer",
            command="data tokenizer --out {out/}",
            code=("vlmlaw.data.miniature.write:write_tokenizer",),
            folder="data/tokenizer",
            files=TOKENIZER,
            lasts=False,
            memory_mb=1000,
            minutes=10,
            local=True,
            first=True,
        ),
    ]


def _encoder(of: Reads) -> Stage:
    """Stage for the miniature's vision encoder, or for the pixels of patches if it has none."""
    experiment = of.experiment
    section: Any = experiment.vision
    common: dict[str, Any] = {
        "rule": "train_encoder",
        "folder": "encoder",
        "files": ("training.json", *MODEL),
        "params": of.settings(lambda _: experiment.encoder_settings),
        "first": True,
    }
    if isinstance(section, PatchVision):
        return Stage(
            **common,
            message="Take the pixels of each patch, without a vision encoder",
            command="encoder patches --settings {settings} --out {out/}",
            code=("vlmlaw.training.patches:write_patch_tower",),
            memory_mb=1000,
            minutes=10,
            local=True,
        )
    return Stage(
        **common,
        message="Train the vision encoder",
        command="encoder train --train {train/} --development {development/} --settings {settings}"
        " --checkpoint-seconds {checkpoint_seconds} --out {out/}",
        code=("vlmlaw.training.encoder:train_encoder",),
        reads={name: of.pictures(name, "patch_labels.npz") for name in ("train", "development")},
        resources={"checkpoint_seconds": lambda _: round(section.training.checkpoint_seconds)},
        measured=True,
        shown=True,
    )


def _trained_models(of: Reads) -> list[Stage]:
    """Stages that train the miniature's vision encoder and language models."""
    experiment = of.experiment
    return [
        _encoder(of),
        Stage(
            rule="pretrain_language_model",
            message="Pretrain the language model of size {wildcards.size} on text",
            command="language-model --tokens {tokens} --tokenizer {tokenizer/} --settings {settings}"
            " --checkpoint-seconds {checkpoint_seconds} --out {out/}",
            code=("vlmlaw.training.language_model:pretrain",),
            folder="language_models/{size}_s{seed}" if experiment.grid.pretrain_each_seed else "language_models/{size}",
            files=("training.json", *LANGUAGE_MODEL),
            reads={"tokens": of.tokens("text"), "tokenizer": of.tokenizer},
            params=of.settings(lambda w: _pretraining(experiment, w)),
            resources={
                "checkpoint_seconds": lambda w: round(_pretraining(experiment, w).pretraining.checkpoint_seconds),
            },
            measured=True,
            first=True,
            shown=True,
        ),
    ]


def _prepared_data(of: Reads) -> list[Stage]:
    """Stages for data in LLaVA's format, and for the tokenizer of a pretrained model."""
    experiment = of.experiment
    return [
        Stage(
            rule="prepare_pictures",
            message="Read the conversations of the {wildcards.split} split and resize their images",
            command="data prepare --settings {settings} --threads {threads} --out {out/}",
            code=("vlmlaw.data.llava:prepare_split",),
            folder="data/{split}",
            files=(*PICTURES, "skipped.json"),
            theirs={"conversations": of.conversations},
            params=of.settings(lambda w: experiment.picture_settings(w["split"])),
            lasts=False,
            memory_mb=8000,
            minutes=720,
            first=True,
            shown=True,
        ),
        Stage(
            rule="take_tokenizer",
            message="Take the tokenizer of the first size",
            command="fetch tokenizer --settings {settings} --out {out/}",
            code=("vlmlaw.tokens.tokenizer:take_tokenizer",),
            folder="data/tokenizer",
            files=TOKENIZER,
            params=of.settings(lambda _: experiment.tokenizer_settings),
            lasts=False,
            memory_mb=1000,
            minutes=30,
            local=True,
            first=True,
        ),
    ]


def _fetched_models(of: Reads) -> list[Stage]:
    """Stages that fetch a vision tower and language models from the hub or from local folders."""
    experiment = of.experiment

    def size_settings(wildcards: Wildcards) -> Any:
        return experiment.size_settings(wildcards["size"])

    def encoder_settings(_: Wildcards) -> Any:
        return experiment.encoder_settings

    return [
        Stage(
            rule="fetch_encoder",
            message="Fetch the vision tower",
            command="fetch vision --settings {settings} --out {out/}",
            code=("vlmlaw.training.pretrained:fetch_vision",),
            folder="encoder",
            files=(FETCHED,),
            theirs={"model": partial(of.model_files, encoder_settings)},
            params=of.settings(encoder_settings),
            memory_mb=2000,
            minutes=120,
            local=True,
            first=True,
            shown=True,
        ),
        Stage(
            rule="fetch_language_model",
            message="Fetch the language model of size {wildcards.size}",
            command="fetch language-model --settings {settings} --tokenizer {tokenizer/} --out {out/}",
            code=("vlmlaw.training.pretrained:fetch_language_model",),
            folder="language_models/{size}",
            files=(FETCHED, *TOKENIZER),
            reads={"tokenizer": of.tokenizer},
            theirs={"model": partial(of.model_files, size_settings)},
            params=of.settings(size_settings),
            memory_mb=2000,
            minutes=240,
            local=True,
            first=True,
            shown=True,
        ),
    ]


def _inputs(of: Reads) -> list[Stage]:
    """Stages for the inputs of cells: conversations as tokens, and images as cached features."""
    experiment = of.experiment
    return [
        Stage(
            rule="tokenize",
            message="Turn the conversations of {wildcards.split} into tokens",
            command="data tokenize --dataset {dataset/} --tokenizer {tokenizer/} --settings {settings} --out {out}",
            code=("vlmlaw.tokens.token_table:tokenize_dataset",),
            folder="tokens",
            files=("{split}.npz",),
            record="{split}.record.json",
            reads={
                "dataset": lambda w: [Read("write_text")] if w["split"] == "text" else of.pictures(None)(w),
                "tokenizer": of.tokenizer,
            },
            params=of.settings(lambda w: experiment.token_settings(w["split"])),
            lasts=False,
            minutes=240 if experiment.pretrained else 30,
            first=True,
        ),
        Stage(
            rule="cache_features",
            message="Cache the encoder's patch features of {wildcards.split}",
            command="encoder features --encoder {encoder/} --dataset {dataset/} --layers {layers} --out {out/}",
            code=("vlmlaw.training.features:cache_features",),
            folder="features/{split}",
            files=tuple(f"layer{layer}.npy" for layer in experiment.cached_layers),
            reads={"encoder": of.encoder, "dataset": of.pictures()},
            params={"layers": lambda _: list(experiment.cached_layers)},
            own_params=("layers",),  # a cell's own settings say which of them it reads
            lasts=False,
            memory_mb=2500,
            minutes=60,
            measured=True,
            first=True,
        ),
    ]


def _trainings(of: Reads) -> list[Stage]:
    """Both training stages of a cell, each also for a training that serves every V."""
    common = {"language_model": of.language_model, "encoder": of.encoder}
    options = (
        " --language-model {language_model/} --encoder {encoder/} --tokens {tokens} --images {images/}"
        " --settings {settings} --checkpoint-seconds {checkpoint_seconds} --compute {compute} --out {out/}"
    )
    align = Stage(
        rule="align_cell",
        message=f"Stage 1 of {WHO}",
        command=f"align{options}",
        code=("vlmlaw.training.cell:align_cell",),
        folder=f"cells/{CELL}/stage_1",
        files=("training.json", "train.jsonl", "connector.safetensors"),
        reads=common | {"tokens": of.tokens("align"), "images": of.images("align", of.aligned)},
        params=of.settings(of.aligned),
        resources={"checkpoint_seconds": lambda w: round(of.aligned(w).training.checkpoint_seconds)},
        of_compressor=True,
        measured=True,
        first=True,
        shown=True,
    )
    train = replace(
        align,
        rule="train_cell",
        message=align.message.replace("Stage 1 of", "Train"),
        command=f"train --aligned {{aligned}}{options}",
        code=("vlmlaw.training.cell:train_cell",),
        folder=f"cells/{CELL}",
        files=("training.json", "train.jsonl", *(f"model/{name}" for name in CELL_MODEL)),
        record="training.record.json",
        made=("model", "training.json", "train.jsonl"),
        reads=common | {"tokens": of.tokens("train"), "images": of.images("train", of.every), "aligned": of.stage_1},
        params=of.settings(of.every),
        resources={"checkpoint_seconds": lambda w: round(of.every(w).training.checkpoint_seconds)},
        first=False,
    )
    return [*([align, _elastic(align)] if of.experiment.alignments else []), train, _elastic(train)]


def _elastic(stage: Stage) -> Stage:
    """Return the same stage for a training whose weights serve every V."""
    return replace(
        stage,
        rule=stage.rule.replace("_cell", "_elastic"),
        message=stage.message.replace("{wildcards.n_visual_tokens} visual tokens", "every number of visual tokens"),
        folder=stage.folder.replace(CELL, ELASTIC),
    )


FLOAT32 = 4  # bytes
ADD_LATENCY = "vlmlaw.evaluation.latency_grid:add_latency"
SMALL: dict[str, Any] = {"memory_mb": 1000, "minutes": 10, "local": True}
WHO = "{wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed})"


def _test(of: Reads) -> list[Stage]:
    """Stage that evaluates a cell on the test split."""
    experiment = of.experiment
    test = Stage(
        rule="evaluate_cell",
        message=f"Evaluate {WHO}",
        command="evaluate --model {model/}/model --dataset {dataset/} --tokens {tokens} --images {images/}"
        " --settings {settings} --cell {cell} --out {out}",
        code=("vlmlaw.evaluation.test_split:evaluate_cell",),
        folder=f"cells/{CELL}",
        files=("evaluation.json",),
        record="evaluation.record.json",
        reads={
            "model": of.training,
            "dataset": of.pictures("test"),
            "tokens": of.tokens("test"),
            "images": of.images("test", of.every),
        },
        params=of.settings(lambda _: experiment.evaluation) | {"cell": of.measured},
        of_compressor=True,
        measured=True,
    )
    return [test]


def _benchmarks(of: Reads) -> list[Stage]:
    """Stages that evaluate a cell on a benchmark, by the project itself or by lmms-eval."""
    experiment = of.experiment
    asked = Stage(
        rule="evaluate_benchmark",
        message=f"Ask {WHO} the questions of {{wildcards.benchmark}}",
        command="benchmark run --model {model/}/model --questions {questions} --images {images} --settings {settings}"
        " --cell {cell} --batch-size {batch_size} --out {out}",
        code=("vlmlaw.evaluation.benchmark:evaluate_benchmark",),
        folder=f"cells/{CELL}/benchmarks",
        files=("{benchmark}.json", "{benchmark}.jsonl"),
        record="{benchmark}.record.json",
        made=("{benchmark}.json", "{benchmark}.jsonl"),
        reads={"model": of.training},
        theirs={"questions": lambda w: [of.benchmark(w).questions]},
        params=of.settings(lambda w: experiment.benchmarks[w["benchmark"]])
        | {
            "cell": of.measured,
            "images": lambda w: of.benchmark(w).images or str(Path(of.benchmark(w).questions).parent),
        },
        resources={"batch_size": lambda w: evaluation_batch(experiment, of.every(w))},
        of_compressor=True,
        memory_mb=3000,
        minutes=240,
        measured=True,
        shown=True,
    )
    by_lmms_eval = replace(
        asked,
        rule="evaluate_by_lmms_eval",
        message=f"Run lmms-eval's {{wildcards.benchmark}} on {WHO}",
        command="benchmark lmms-eval --model {model/}/model --settings {settings} --batch-size {batch_size}"
        " --out {out}",
        code=("vlmlaw.evaluation.lmms_eval.run:run_lmms_eval", "vlmlaw.evaluation.lmms_eval.model:VlmlawModel"),
        files=("{benchmark}.json",),
        made=("{benchmark}.json",),
        theirs={},
        environment="lmms-eval",
        params=of.settings(lambda w: experiment.benchmarks[w["benchmark"]]),
        memory_mb=8000,
        minutes=480,
    )
    return [asked, by_lmms_eval]


def _latency(of: Reads) -> list[Stage]:
    """Stage that times all cells, if the experiment asks for it, in one job so that times can be compared."""
    asked = of.experiment.latency
    if asked is None:
        return []
    bytes_per_param = max(of.experiment.n_params_estimate(size) for size in of.experiment.sizes) * FLOAT32
    stage = Stage(
        rule="measure_latency",
        message="Measure the milliseconds to the first token in every cell",
        command="latency --settings {settings} --out {out}",
        code=("vlmlaw.evaluation.latency_grid:measure_grid",),
        folder="cells",  # which DVC records as a whole
        files=("latency.json",),
        record="latency.record.json",
        params=of.settings(lambda _: latency_plan(of.experiment)),
        resources={"gpu": lambda _: int(asked.device == "gpu")},
        memory_mb=2000 + bytes_per_param // 10**6,
        minutes=120,
        alone=True,
        threads=asked.threads,
    )
    return [stage]


def _proposals(of: Reads, design: Design) -> Stage:
    """Stage for a round of a design."""

    def cells(wildcards: Wildcards) -> dict[str, CellSettings]:
        return of.cells(before=int(wildcards["round"]))

    def before(wildcards: Wildcards) -> list[Read]:
        number = int(wildcards["round"])
        return [Read(PROPOSE, {"round": str(number - 1)})] if number else []

    return Stage(
        rule=PROPOSE,
        message="Propose which cells to train next (round {wildcards.round} of the design)",
        command="propose --cells {results}/cells --experiment {experiment} --settings {settings}"
        " --before {before} --out {out}",
        code=("vlmlaw.workflow.proposal:propose",),
        folder=DESIGN_FOLDER,
        files=("{round}.json",),
        record="{round}.record.json",
        made=("{round}.json",),
        reads={
            "before": before,
            "evaluations": lambda w: [one for cell in cells(w).values() for one in evaluations_of(of.experiment, cell)],
            "trainings": lambda w: [training_of(one, "training.json") for one in of.trainings_for(cells(w)).values()],
        },
        many=("evaluations", "trainings"),
        params={
            "settings": lambda w: design.settings_of_round(int(w["round"])),
            "grid": lambda _: design.grid_hash,
        },
        resources={"experiment": lambda _: whole_as_json(of.experiment)},
        **SMALL,
    )


def _measurements(of: Reads) -> list[Stage]:
    """Stages for the cards of all cells and the table of their measurements, after the rounds of any design."""
    experiment, design = of.experiment, of.design
    whole = {"experiment": lambda _: whole_as_json(experiment)}
    timed = experiment.latency is not None
    last, option = _last_round(of)
    cards = ("README.md",) if design else tuple(f"{cell}/README.md" for cell in experiment.cells)
    return [
        *([_proposals(of, design)] if design else []),
        Stage(
            rule="write_cards",
            message="Write the cards of all cells",
            command=f"cards --cells {{results}}/cells --experiment {{experiment}}{option} --out {{results}}/cells",
            code=("vlmlaw.evaluation.card:write_cards",),
            folder="cells",
            files=cards,
            record="../cards.record.json",
            made=("*/README.md", *(cards if design else ())),
            reads={"evaluations": of.evaluations, "trainings": of.trainings("training.json")} | last,
            many=("evaluations", "trainings"),
            resources=whole,
            **SMALL,
        ),
        Stage(
            rule="collect_measurements",
            message="Collect the measurements of all cells",
            command=f"collect --cells {{results}}/cells --experiment {{experiment}}{option}"
            " --held-out={held_out}" + (" --latency {latency}" if timed else "") + " --out {out}",
            code=("vlmlaw.evaluation.measurements:collect", *([ADD_LATENCY] if timed else [])),
            folder="",
            files=("measurements.csv",),
            record="measurements.record.json",
            reads={"evaluations": of.evaluations}
            | ({"latency": lambda _: [Read("measure_latency")]} if timed else {})
            | last,
            many=("evaluations",),
            params={"held_out": lambda _: experiment.grid.held_out or ""},
            resources=whole,
            **SMALL,
        ),
    ]


def _explained(of: Reads) -> list[Stage]:
    """Stage for the page's questions that tell size and tokens apart, if wanted: a few cells answer again."""
    experiment, plan = of.experiment, explain_plan(of.experiment)
    if plan is None:
        return []
    cells = [experiment.cell_settings(cell_named_in(vars(cell.measured))) for cell in plan.cells]
    trainings = {training.name: training for training in map(experiment.training_of, cells)}
    bytes_per_param = max(experiment.n_params_estimate(cell.size) for cell in cells) * FLOAT32
    return [
        Stage(
            rule="explain_samples",
            message="Find questions that larger models, or more visual tokens, alone answer",
            command="explain --cells {results}/cells"
            + (" --dataset {dataset/} --tokens {tokens} --images {images/}" if experiment.has_test else "")
            + " --settings {settings} --out {out}",
            code=("vlmlaw.evaluation.explain:explain",),
            folder="report",
            files=("samples.json",),
            record="samples.record.json",
            reads={
                "models": lambda _: [
                    training_of(training, "training.json", *(f"model/{name}" for name in LANGUAGE_MODEL))
                    for training in trainings.values()
                ],
                "replies": lambda _: [
                    Read("evaluate_benchmark", {**wildcards_of(cell), "benchmark": own.name})
                    for cell in cells
                    for own in plan.benchmarks
                ],
            }
            | (
                {
                    "dataset": of.pictures("test"),
                    "tokens": of.tokens("test"),
                    "images": of.images("test", lambda _: cells[0]),
                }
                if experiment.has_test
                else {}
            ),
            many=("models", "replies"),
            theirs={"questions": lambda _: [own.questions for own in plan.benchmarks]} if plan.benchmarks else {},
            params=of.settings(lambda _: plan),
            resources={"gpu": lambda _: int(experiment.compute.gpus > 0)},
            memory_mb=3000 + 2 * bytes_per_param // 10**6,
            minutes=120,
        )
    ]


def _conclusions(of: Reads) -> list[Stage]:
    """Stages for the law, the study's summary in a few numbers, and the page."""
    experiment = of.experiment
    law = {"law": lambda _: [Read("fit_law")], "measurements": lambda _: [Read("collect_measurements")]}
    figures = [name for name in FIGURES if experiment.latency is not None or name not in OF_TIME]
    samples = of.pictures("test") if experiment.has_test else lambda _: []
    explained = explain_plan(experiment) is not None
    last, option = _last_round(of)
    trained_before = not experiment.pretrained or bool(experiment.alignments)
    return [
        law_stage("collect_measurements", experiment.law),
        Stage(
            rule="write_headline",
            message="Write the study's few numbers",
            command="headline --law {law} --measurements {measurements} --results {results} --out {out/}",
            code=("vlmlaw.workflow.dvc_metrics:write_headline",),
            folder="headline",
            files=("errors.csv", "metrics/"),
            reads=law | {"trainings": lambda w: [*of.before_cells(w), *of.trainings("training.json")(w)]},
            many=("trainings",),
            **SMALL,
        ),
        Stage(
            rule="write_report",
            message="Draw the figures and write the report",
            command="report --law {law} --measurements {measurements} --cells {results}/cells"
            + option
            + (" --trainings {trainings}" if trained_before else "")
            + (" --samples {results}/data/test" if experiment.has_test else "")
            + (" --explained {explained}" if explained else "")
            + " --experiment {experiment} --settings {settings} --out {out/}",
            code=("vlmlaw.cli.report:run_report",),
            folder="report",
            files=("index.html", *(f"figures/{name}.svg" for name in figures)),
            reads=law
            | {
                "cells": of.trainings("training.json", "train.jsonl"),
                "trainings": of.before_cells,
                "samples": samples,
            }
            | ({"explained": lambda _: [Read("explain_samples")]} if explained else {})
            | last,
            made=("index.html", "figures/*.svg")
            if explained
            else (),  # without samples.json, which another stage makes in this folder
            many=("cells", "trainings"),
            params=of.settings(lambda _: experiment.report)
            | {"experiment": lambda _: described(experiment), "templates": lambda _: templates_version()},
            memory_mb=1500,
            minutes=20,
            local=True,
        ),
    ]


def law_stage(measurements: str, options: Mapping[str, Any], *, message: str = "Fit the law") -> Stage:
    """Return the stage that fits the law to the table of the rule `measurements`; `options` are the section `law:`."""
    settings = {name: value for name, value in options.items() if name not in READING}
    return Stage(
        rule="fit_law",
        message=message,
        command="law fit {measurements} --settings {settings} --out {out}",
        code=("vlmlaw.laws.table:read_measurements", "vlmlaw.laws.analysis:analyse"),
        folder="law",
        files=("law.json",),
        reads={"measurements": lambda _: [Read(measurements)]},
        params={"settings": lambda _: to_json(settings)},
        memory_mb=1500,
        minutes=30,
        local=True,
    )


def _last_round(of: Reads) -> tuple[dict[str, Callable[[Wildcards], list[Read]]], str]:
    """Return input and option by which a stage that reads all cells of a design reads its last round, too."""
    design = of.design
    if design is None:
        return {}, ""
    return {"design": lambda _: [Read(PROPOSE, {"round": str(design.last)})]}, " --design {design}"


def _pretraining(experiment: Experiment, wildcards: Wildcards) -> Any:
    return experiment.size_settings(wildcards["size"], seed=int(wildcards.get("seed", 0)))
