"""The table of stages, Snakemake's own graph and dvc.yaml say the same."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest
import yaml

from vlmlaw.data.practice import write_practice
from vlmlaw.workflow.plan import Plan
from vlmlaw.workflow.stage import Read

from .project import ROOT, Project, environment, new_project, tiny_experiment

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


TELL_JOBS = """
import json, sys
import snakemake.cli
from snakemake.jobs import Job

Job.log_info = lambda job, *_, **__: print("JOB", json.dumps([list(map(str, job.output)), list(map(str, job.input))]))
snakemake.cli.main(sys.argv[1:])
"""


def planned_graph_of(project: Project) -> dict[str, set[str]]:
    """Every output of Snakemake's jobs with the inputs of its job, from a dry run."""
    command = [sys.executable, "-c", TELL_JOBS, "--dry-run", "--forceall", "--cores", "2"]
    done = subprocess.run(command, cwd=project.folder, env=environment(), capture_output=True, text=True, check=False)
    jobs = [json.loads(line.removeprefix("JOB ")) for line in done.stdout.splitlines() if line.startswith("JOB ")]
    return {file: set(inputs) for outputs, inputs in jobs for file in outputs}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> dict[str, set[str]]:
    """Every output of the miniature's jobs with the inputs of its job."""
    return planned_graph_of(new_project(tmp_path_factory.mktemp("drift") / "graph", tiny_experiment()))


EXPERIMENTS = {
    "miniature": tiny_experiment(),
    "elastic": tiny_experiment()
    | {
        "grid": {"visual_tokens": [1, 4], "compressors": ["m3", "visionzip"], "sizes": ["3k", "14k"], "seeds": [0, 2]}
        | {"pretrain_each_seed": True}
    }
    | {"latency": {"threads": 1}, "report": {"explained": 1}}
    | {"evaluation": {"benchmarks": [{"name": "pope", "questions": "pope.json"}]}},
    "pretrained": yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())
    | {"results": "results"},
}


@pytest.fixture(scope="module", params=EXPERIMENTS)
def planned(request, tmp_path_factory) -> Iterator[tuple[Plan, dict[str, set[str]]]]:
    """The plan of an experiment, made where it lies, and Snakemake's graph of it."""
    project = new_project(tmp_path_factory.mktemp("drift") / "project", EXPERIMENTS[request.param])
    (project.folder / "pope.json").write_text("[]")
    if request.param == "pretrained":
        write_practice(project.folder / "practice")
    with pytest.MonkeyPatch.context() as at:
        at.chdir(project.folder)
        is_known = request.param == "miniature"
        yield Plan(project.params), request.getfixturevalue("graph") if is_known else planned_graph_of(project)


def all_jobs(plan: Plan) -> dict[tuple, Read]:
    """Every job behind the targets, by the table alone."""
    waiting, found = [Read("write_report"), Read("write_headline"), Read("write_cards")], {}
    for read in waiting:
        key = (read.rule, *sorted(read.wildcards.items()))
        if key not in found:
            found[key] = read
            waiting.extend(plan.lineage.reads(*read.job))
    return found


def test_the_table_of_stages_is_what_snakemake_runs(planned):
    plan, graph = planned
    made, read = set(), {}
    for job in all_jobs(plan).values():
        outputs = [*plan.files(Read(*job.job)), plan.record_of(*job.job)]
        made.update(outputs)
        inputs = {file for name in plan.inputs(job.rule) for file in plan.inputs(job.rule)[name](job.wildcards)}
        read |= dict.fromkeys(outputs, inputs)
    assert made == set(graph)
    for output, inputs in graph.items():
        assert {file for file in inputs if not file.startswith(OURS)} == read[output], output


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
