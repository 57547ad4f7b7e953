"""dvc.yaml says nothing of stages, files or settings that Snakemake's own graph does not say."""

from collections import defaultdict

import pytest
import yaml

from .project import ROOT, Project

pytestmark = pytest.mark.workflow
CACHES = ("results/data/", "results/tokens/", "results/features/")
CODE = {"Snakefile", "workflow/rules", "src/vlmlaw"}
RECORDS = ".snakemake/metadata"
OURS = ("results/logs/", "results/benchmarks/", ".snakemake/vlmlaw/")


def stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def outs(stage: dict) -> set[str]:
    return {path for out in stage["outs"] for path in (out if isinstance(out, dict) else [out])}


def holder(path: str) -> str | None:
    """The DVC output that holds a file."""
    return next((out for stage in stages().values() for out in outs(stage) if f"{path}/".startswith(f"{out}/")), None)


def stage_of(path: str) -> str | None:
    out = holder(path)
    return next((name for name, stage in stages().items() if out in outs(stage)), None)


@pytest.fixture(scope="module")
def graph(recorded_once) -> dict[str, set[str]]:
    """Every output of Snakemake's jobs with the inputs of its job."""
    lines = recorded_once.snakemake("--detailed-summary", "--forceall").stdout.splitlines()
    header = lines[0].split("\t")
    rows = [dict(zip(header, line.split("\t"), strict=False)) for line in lines[1:] if "\t" in line]
    return {row["output_file"]: set(row["input-file(s)"].split(",")) - {"", "-"} for row in rows}


def lasting_inputs(graph: dict[str, set[str]], outputs: set[str]) -> set[str]:
    """What jobs read that lasts: inputs that are caches are followed to what those are made from."""
    found, waiting, seen = set(), [file for output in outputs for file in graph[output]], set()
    while waiting:
        file = waiting.pop()
        if file in seen or file.startswith(OURS):
            continue
        seen.add(file)
        if file.startswith(CACHES):
            waiting.extend(graph[file])
        else:
            found.add(file)
    return found


def test_what_lasts_is_recorded_once_and_nothing_else_is(graph):
    lasting = {file for file in graph if not file.startswith((*CACHES, *OURS))}
    assert {file for file in lasting if holder(file) is None} == set()
    assert {holder(file) for file in lasting} | {RECORDS} == set().union(*map(outs, stages().values()))
    assert {file for file in graph if file.startswith(CACHES) and holder(file)} == set()


def test_a_stages_dependencies_are_what_its_jobs_read(graph):
    made = defaultdict(set)
    for output in graph:
        if stage := stage_of(output):
            made[stage].add(output)
    for name, stage in stages().items():
        read = {holder(file) for file in lasting_inputs(graph, made[name])} - outs(stage)
        assert set(stage["deps"]) == read | CODE, name


SETTINGS = [
    ("name", "other"),
    ("data.seed", 1),
    ("data.images.test", 80),
    ("vision.feature_layers", [1]),
    ("vision.training.steps", 5),
    ("pretraining.steps", 5),
    ("training.steps", 5),
    ("sizes.14k.training", {"steps": 5}),
    ("sizes.14k.hidden_size", 28),
    ("grid.visual_tokens", [1, 4]),
    ("grid.held_out", None),
    ("evaluation.batch_size", 16),
    ("law.level", 0.9),
    ("report.samples", 1),
    ("compute.threads", 2),
]
STAGE_OF_RULE = {
    "train_encoder": "models",
    "pretrain_language_model": "models",
    "train_cell": "cells",
    "evaluate_cell": "cells",
    "collect_measurements": "cells",
    "fit_law": "law",
    "write_headline": "law",
    "write_report": "report",
}


def starts(project: Project) -> set[str]:
    """The stages that Snakemake has work in."""
    return {STAGE_OF_RULE[rule] for rule in project.planned() if rule in STAGE_OF_RULE}


def test_a_stage_lists_the_settings_that_its_jobs_depend_on_and_no_others(recorded):
    """Every change that gives a stage work starts it in DVC too: by a setting that it lists, or a stage before it."""
    before = recorded.params
    witnessed: dict[str, set[str]] = defaultdict(set)
    for path, value in SETTINGS:
        recorded.change(path, value)
        work, section = starts(recorded), path.split(".")[0]
        for name in work:
            witnessed[name].add(section)
            earlier = {
                other
                for other, stage in stages().items()
                if other in work and outs(stage) & set(stages()[name]["deps"])
            }
            assert section in stages()[name]["params"] or earlier, f"{path} gives {name} work, and DVC would not see it"
        (recorded.folder / "params.yaml").write_text(yaml.safe_dump(before, sort_keys=False))
    for name, stage in stages().items():
        assert set(stage["params"]) <= witnessed[name], name
