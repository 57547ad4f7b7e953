"""The table of stages of an experiment with `models:`: ask each model at each V, judge, collect, fit, write the page.

The rows are as in stages.py; rules, logs, records and lineage follow from them in the same way.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmlaw.evaluation.measuring.job import LOAD, MODEL, REPLIES
from vlmlaw.experiment.catalogue import Catalogue
from vlmlaw.report.templates_version import templates_version
from vlmlaw.settings import to_json
from vlmlaw.workflow.stage import Read, Stage, Wildcards
from vlmlaw.workflow.stages import SMALL, law_stage

ASK, TIME = "ask_model", "load_model"
MINUTES = 240  # to ask a cell all questions
MEMORY_MB = 4000  # of a process that holds a small model or none
BACKENDS = (
    "vlmlaw.evaluation.backends.endpoint:Endpoint",
    "vlmlaw.evaluation.backends.checkpoint:Checkpoint",
    "vlmlaw.evaluation.backends.compressed:Compressed",
    "vlmlaw.evaluation.backends.trained_cell:TrainedCell",
)


def model_stages_of(catalogue: Catalogue) -> dict[str, Stage]:
    """Return every stage by its rule, in the order of the work."""
    loading = (_loading,) if catalogue.asking.load else ()
    parts = (_asking, *loading, _judging, _collecting, _fitting, _reporting)
    return {stage.rule: stage for stage in (part(catalogue) for part in parts)}


def asked_of(catalogue: Catalogue, benchmark: str) -> list[Read]:
    """Return the replies of every cell to a benchmark."""
    pairs = catalogue.cells.values()
    return [Read(ASK, {"benchmark": benchmark, "model": model, "budget": budget}) for model, budget in pairs]


def loads_of(catalogue: Catalogue, benchmark: str) -> list[Read]:
    """Return the times under load of every cell whose model is on a server."""
    asked = asked_of(catalogue, benchmark) if catalogue.asking.load else []
    return [Read(TIME, r.wildcards) for r in asked if catalogue.models[r.wildcards["model"]].kind == "endpoint"]


def _questions(catalogue: Catalogue) -> dict[str, Callable[[Wildcards], list[str]]]:
    return {"questions": lambda w: [catalogue.benchmark(w["benchmark"]).questions]}


def _images(catalogue: Catalogue) -> Callable[[Wildcards], str]:
    def images(wildcards: Wildcards) -> str:
        own = catalogue.benchmark(wildcards["benchmark"])
        return own.images or str(Path(own.questions).parent)

    return images


def _ask_settings(catalogue: Catalogue) -> Callable[[Wildcards], str]:
    return lambda w: to_json(catalogue.ask_settings(w["model"], w["budget"], w["benchmark"]))


def _asking(catalogue: Catalogue) -> Stage:
    return Stage(
        rule=ASK,
        message="Ask {wildcards.model} at V = {wildcards.budget} the questions of {wildcards.benchmark}",
        command="models ask --questions {questions} --images {images} --benchmark {benchmark} --settings {settings}"
        " --serving {serving} --endpoint {endpoint} --out {out}",
        code=("vlmlaw.evaluation.measuring.job:ask_job", *BACKENDS),
        folder="asked/{benchmark}/{model}_v{budget}",
        files=(REPLIES, MODEL),
        made=(REPLIES, MODEL),
        theirs=_questions(catalogue) | {"weights": lambda w: catalogue.files_of(w["model"])},
        params={"settings": _ask_settings(catalogue), "images": _images(catalogue)},
        resources={
            "serving": lambda _: to_json(catalogue.asking),
            "endpoint": lambda w: catalogue.models[w["model"]].endpoint or "none",
        },
        memory_mb=MEMORY_MB,
        minutes=MINUTES,
        measured=True,
        shown=True,
    )


def _loading(catalogue: Catalogue) -> Stage:
    return Stage(
        rule=TIME,
        message="Time {wildcards.model} at V = {wildcards.budget} under load",
        command="models load --questions {questions} --images {images} --benchmark {benchmark} --settings {settings}"
        " --serving {serving} --endpoint {endpoint} --out {out}",
        code=("vlmlaw.evaluation.measuring.job:load_job", BACKENDS[0]),
        folder="loads/{benchmark}/{model}_v{budget}",
        files=(LOAD,),
        reads={"replies": lambda w: [Read(ASK, w, (REPLIES,))]},
        theirs=_questions(catalogue),
        params={
            "settings": _ask_settings(catalogue),
            "images": _images(catalogue),
            "load": lambda _: to_json([*catalogue.asking.load]),
        },
        resources={
            "serving": lambda _: to_json(catalogue.asking),
            "endpoint": lambda w: catalogue.models[w["model"]].endpoint,
        },
        memory_mb=MEMORY_MB,
        minutes=MINUTES,
        shown=True,
    )


def _judging(catalogue: Catalogue) -> Stage:
    loads = {"loads": lambda w: loads_of(catalogue, w["benchmark"])} if catalogue.asking.load else {}
    return Stage(
        rule="judge_models",
        message="Judge the replies to {wildcards.benchmark}",
        command="models judge {replies} --questions {questions} --images {images} --benchmark {benchmark}"
        " --settings {settings} --metric={metric} --out {out/}" + " --loads {loads}" * bool(loads),
        code=("vlmlaw.evaluation.measuring.job:judge_job", "vlmlaw.report.measured_files:write_measured"),
        folder="measured/{benchmark}",
        files=("index.html", "cells.csv", "questions.csv", "measurements.csv"),
        reads={
            "replies": lambda w: [Read(r.rule, r.wildcards, (REPLIES,)) for r in asked_of(catalogue, w["benchmark"])],
            **loads,
        },
        many=("replies", *loads),
        theirs=_questions(catalogue) | {"speed": lambda _: [*catalogue.decision.speed.values()]},
        params={
            "settings": lambda _: to_json(catalogue.decision),
            "images": _images(catalogue),
            "metric": lambda w: catalogue.benchmark(w["benchmark"]).metric or "",
            "templates": lambda _: templates_version(),
        },
        shown=True,
        **SMALL | {"memory_mb": 2000},
    )


def _collecting(catalogue: Catalogue) -> Stage:
    def tables(_: Wildcards) -> list[Read]:
        own = catalogue.evaluation.benchmarks
        return [Read("judge_models", {"benchmark": one.name}, ("measurements.csv",)) for one in own]

    return Stage(
        rule="collect_models",
        message="Collect the measurements of all models",
        command="models collect {tables} --out {out}",
        code=("vlmlaw.evaluation.measuring.job:collect_tables",),
        folder="",
        files=("measurements.csv",),
        record="measurements.record.json",
        reads={"tables": tables},
        many=("tables",),
        **SMALL,
    )


def _fitting(catalogue: Catalogue) -> Stage:
    return law_stage("collect_models", catalogue.law, message="Fit the law of each family")


def _reporting(catalogue: Catalogue) -> Stage:
    return Stage(
        rule="write_report",
        message="Draw the figures and write the report",
        command="report --law {law} --measurements {measurements} --settings {settings} --out {out/}",
        code=("vlmlaw.cli.report:run_report",),
        folder="report",
        files=("index.html",),
        reads={"law": lambda _: [Read("fit_law")], "measurements": lambda _: [Read("collect_models")]},
        params={"settings": lambda _: to_json(catalogue.report), "templates": lambda _: templates_version()},
        memory_mb=1500,
        minutes=20,
        local=True,
    )


def gpus_to_ask(catalogue: Catalogue, wildcards: Any) -> int:
    """Return the GPUs of a job that asks a model: one if it is loaded here and the experiment has any."""
    return int(bool(catalogue.compute.gpus) and catalogue.models[wildcards["model"]].kind != "endpoint")
