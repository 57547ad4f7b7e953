"""dvc.yaml says nothing of stages and files that Snakemake's own graph does not say, and nothing of settings."""

from collections import defaultdict

import pytest
import yaml

from .project import ROOT

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


def test_every_setting_starts_every_stage():
    """Which settings a job depends on stands in the rules alone, and experiments differ in the sections they have."""
    assert all(stage["params"] == [{"params.yaml": None}] for stage in stages().values())
