"""What the workflow patches in Snakemake, and that a Snakemake with other internals runs it all the same.

Such a Snakemake is a changed copy of the installed one in the project's folder, where `python -m snakemake` finds it
first.
"""

import ast
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake

from vlmlaw.workflow import internals, snakemake_patches
from vlmlaw.workflow.attempts import read_attempts

from .project import Project, new_project, planned_in, tiny_experiment
from .standins import use_standins

pytestmark = pytest.mark.workflow
TOKENIZER = "results/data/tokenizer/tokenizer.json"
# A private name, as if Snakemake had renamed it, and what cannot do its work then.
RENAMED = {
    "restart_times": {"no_retry_of_unrecoverable_jobs"},
    "_delete_locks": {"keep_locks_of_other_runs"},
    "_lockfile": {"keep_locks_of_other_runs"},
    "_lockdir": {"keep_locks_of_other_runs"},
    "cleanup_locks": {"keep_locks_of_other_runs"},
    "input_checksums": {"trust_record_without_checksum", "record_of_output", "record_inputs_once"},
    "_write_record": {"record_inputs_once"},
    "_unmark_incomplete": {"record_inputs_once"},
    "_clear_cache": {"record_inputs_once"},
    "_conda_env": {"omit_unused_conda_env"},
    "remote_exec": {"record_results_inside_cluster_jobs"},
    "_filter_incomplete_keys": {"marked_incomplete"},
    "_get_key": {"marked_incomplete", "record_inputs_once"},
    "_read_record": {"pass_over_damaged_records"},
    "_record_path": {"pass_over_damaged_records"},
    "_metadata_path": {"pass_over_damaged_records"},
    "global_resources": {"limit_of_this_machine"},
    "config_settings": {"config_given"},
    "is_main_process": {"is_head_process"},
}
# Names too common to be replaced as text: another shape that does the same, as code before the Snakefile's own.
ANOTHER_PROPERTY = (
    "{0}.{1} = type('Another', (), {{'__get__': lambda _, job, kind=None, own={0}.{1}: own.fget(job)}})()"
)
ANOTHER_FUNCTION = "{0}.{1} = lambda self, *more, own={0}.{1}: own(self, *more)"
RESHAPED = {
    ("snakemake.jobs", "Job", "log"): (ANOTHER_PROPERTY, "no_retry_of_unrecoverable_jobs"),
    ("snakemake.jobs", "GroupJob", "jobs"): (ANOTHER_PROPERTY, "no_retry_of_unrecoverable_jobs"),
    ("snakemake.persistence", "PersistenceBase", "finished"): (
        ANOTHER_FUNCTION,
        "record_results_inside_cluster_jobs",
        "accept_results_of_lost_runs",
        "record_inputs_once",
    ),
    ("snakemake.persistence", "PersistenceBase", "incomplete"): (ANOTHER_FUNCTION, "accept_results_of_lost_runs"),
    ("snakemake.dag", "DAG", "update_jobids"): (ANOTHER_FUNCTION, "accept_results_of_lost_runs"),
    ("snakemake.dag", "DAG", "check_output_mtime"): (ANOTHER_FUNCTION, "accept_inputs_dated_ahead"),
    ("snakemake.settings.types", "RemoteExecutionSettings", "immediate_submit"): (
        "{0}.__dataclass_params__.frozen = True",
        "record_results_inside_cluster_jobs",
    ),
    ("snakemake.persistence", "PersistenceBase", "metadata"): (
        ANOTHER_FUNCTION,
        "record_of_output",
        "record_inputs_once",
    ),
    ("snakemake.persistence", "MetadataRecord", "input"): ("del {0}.__annotations__['{1}']", "record_inputs_once"),
    ("snakemake.persistence", "MetadataRecord", "job_hash"): ("del {0}.__annotations__['{1}']", "record_inputs_once"),
    ("snakemake.persistence", "MetadataRecord", "params"): ("del {0}.__annotations__['{1}']", "record_of_output"),
    ("snakemake.workflow", "Workflow", "local_exec"): (ANOTHER_PROPERTY, "limit_of_this_machine"),
    ("snakemake.resources", "Resource", "value"): (ANOTHER_PROPERTY, "limit_of_this_machine"),
    ("snakemake.settings.types", "ConfigSettings", "config"): ("del {0}.__annotations__['{1}']", "config_given"),
    ("snakemake.settings.types", "ConfigSettings", "configfiles"): (
        "{0}.__dataclass_params__.frozen = True",
        "config_given",
    ),
    ("snakemake.settings.types", "ConfigSettings", "config_args"): (
        "{0}.__dataclass_params__.frozen = True",
        "config_given",
    ),
}


@pytest.fixture
def project(tmp_path) -> Project:
    """The tiny experiment with stand-ins for its stages, and no results."""
    made = new_project(tmp_path / "project", tiny_experiment())
    use_standins(made.folder)
    return made


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> dict[str, int]:
    """What a first run would do with Snakemake as it is."""
    return new_project(tmp_path_factory.mktemp("usual") / "project", tiny_experiment()).planned()


def rename(project: Project, *names: str) -> None:
    """Give the project a Snakemake of its own, which has other names for these."""
    package = project.folder / "snakemake"
    shutil.copytree(Path(snakemake.__file__).parent, package, ignore=shutil.ignore_patterns("unit_tests", "*.html"))
    pattern = re.compile(rf"\b({'|'.join(names)})\b")
    for path in package.rglob("*.py"):
        text = path.read_text()
        if pattern.search(text):
            path.write_text(pattern.sub(r"\1_of_another_version", text))


def lost_in(output: str) -> list[set[str]]:
    """For each line that says so, the functions that cannot do their work."""
    said = (line for line in output.splitlines() if "internals that vlmlaw does not know" in line)
    return [{name for name in internals.RELIANCES if f"({name}: " in line} for line in said]


def runs(project: Project, usual: dict[str, int], lost: set[str]) -> None:
    """The plan is the usual one, a job is done, done is done, and each run has one line for all that is lost."""
    dry = project.snakemake("--dry-run")
    assert lost_in(dry.stderr) == [lost] and lost_in(dry.stdout) == []
    assert planned_in(dry) == usual
    done = project.snakemake(TOKENIZER)
    assert lost_in(done.stderr) == [lost] and lost_in(done.stdout) == []
    assert (project.folder / TOKENIZER).exists()
    assert "Nothing to be done" in project.snakemake(TOKENIZER).stderr


def test_the_installed_snakemake_has_all_that_is_patched(project):
    assert lost_in(project.snakemake("--dry-run").stderr) == []


def test_without_any_of_them_the_run_goes_on(project, usual):
    rename(project, *RENAMED)
    runs(project, usual, set().union(*RENAMED.values()))


def test_without_any_of_them_only_what_changed_reruns(finished):
    rename(finished, *RENAMED)
    assert finished.planned() == {}
    finished.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    planned = finished.planned()
    assert (planned["train_cell"], planned["evaluate_cell"], planned["fit_law"]) == (3, 3, 1)
    assert "train_encoder" not in planned


def test_without_any_of_them_new_times_rerun_jobs_with_all_their_inputs(finished):
    """Where nothing overrules Snakemake, times decide; the caches that a job reads are among its inputs then."""
    rename(finished, *RENAMED)
    for number, path in enumerate(sorted((finished.folder / "results").rglob("*"), reverse=True)):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    assert finished.planned()["train_cell"] == 10


@pytest.mark.versions
@pytest.mark.parametrize("name", RENAMED)
def test_without_one_of_them_the_run_goes_on(project, usual, name):
    rename(project, name)
    runs(project, usual, RENAMED[name])


@pytest.mark.versions
@pytest.mark.parametrize("part", RESHAPED, ids=".".join)
def test_with_another_shape_of_one_the_run_goes_on(project, usual, part):
    module, owner, name = part
    change, *lost = RESHAPED[part]
    changed = f"from {module} import {owner}\n{change.format(owner, name)}\n"
    snakefile = project.folder / "Snakefile"
    snakefile.write_text(changed + snakefile.read_text())
    runs(project, usual, set(lost))


def test_every_part_is_taken_away_in_turn():
    parts = {(part.module, part.owner, part.name) for known in internals.RELIANCES.values() for part in known.parts}
    assert {part for part in parts if part[2] not in RENAMED} == set(RESHAPED)


def test_every_private_name_in_use_is_named_as_a_part():
    tree = ast.parse(Path(snakemake_patches.__file__).read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert private and private <= {part.name for known in internals.RELIANCES.values() for part in known.parts}


@pytest.mark.parametrize(("error", "attempts"), [("UserError", 1), ("RuntimeError", 3)])
def test_what_cannot_succeed_is_tried_once(project, error, attempts):
    stages = project.folder / "src" / "vlmlaw" / "cli" / "stages.py"
    failing = f"\n\ndef run_encoder(args):\n    from vlmlaw.errors import UserError\n\n    raise {error}('no')\n"
    stages.write_text(stages.read_text() + failing)
    run = project.snakemake("results/encoder/model.safetensors", "--retries", "2", check=False)
    assert run.returncode != 0
    assert (run.stdout + run.stderr).count("Trying to restart job") == attempts - 1
    assert len(read_attempts(project.folder / "results" / "logs" / "train_encoder.log")) == attempts


def records_of(project: Project) -> list[dict[str, object]]:
    """Snakemake's records of all outputs."""
    paths = (project.folder / ".snakemake" / "metadata").rglob("*")
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def test_records_hold_no_environment_that_no_job_ran_in(project):
    project.snakemake(TOKENIZER)
    records = records_of(project)
    assert {record["rule"] for record in records} == {"build_tokenizer"}
    assert [record["conda_env"] for record in records] == [None] * len(records)


def test_the_first_output_of_a_job_lists_its_inputs_and_the_others_do_not(project):
    """And a changed input makes the job run, whichever of its outputs is asked for."""
    project.snakemake("results/encoder/model.safetensors")
    records = [record for record in records_of(project) if record["rule"] == "train_encoder"]
    listing = [record for record in records if record["input"]]
    assert len(records) > 3 and len(listing) == 1
    assert set(listing[0]["input_checksums"]) <= set(listing[0]["input"]) and listing[0]["input_checksums"]
    assert {record["input_checksums"] is None for record in records if record is not listing[0]} == {True}
    assert len({(record["job_hash"], str(record["params"]), record["endtime"]) for record in records}) == 1
    assert not any((project.folder / ".snakemake" / "incomplete").iterdir())
    assert "Nothing to be done" in project.snakemake("results/encoder/config.json").stderr
    project.change("data.images.development", 50)
    assert planned_in(project.snakemake("--dry-run", "results/encoder/config.json"))["train_encoder"] == 1


def test_a_job_of_a_cluster_records_its_results(project):
    """As the scheduler's node runs it, and with no head process that hears of the end."""
    project.snakemake(TOKENIZER, "--mode", "remote", "--nolock")
    assert {record["rule"] for record in records_of(project)} == {"build_tokenizer"}


def test_applying_twice_does_no_harm(project, usual):
    """The line comes once, and what fits is in place."""
    snakefile = (project.folder / "Snakefile").read_text()
    once = snakefile[snakefile.index("snakemake_patches.apply(") :].partition("\n)\n")[0] + "\n)\n"
    project.edit("Snakefile", once, 2 * once)
    rename(project, "_lockdir")
    runs(project, usual, {"keep_locks_of_other_runs"})
    assert [record["conda_env"] for record in records_of(project)] == [None] * 4


def test_one_record_tells_the_inputs_of_all_outputs_of_a_job(monkeypatch):
    """A job writes the cards of a whole grid: reading each one's record for each input took hours for 2,800 cells."""
    from snakemake.persistence import PersistenceBase

    monkeypatch.setattr(PersistenceBase, "input_checksums", PersistenceBase.input_checksums)
    snakemake_patches.trust_record_without_checksum(lambda job, file: False, lambda file: "")
    read = []

    class Records:
        def metadata(self, path):
            read.append(path)
            return SimpleNamespace(input_checksums={"evaluation": "sha256:1"})

    job = SimpleNamespace(output=[f"card{number}" for number in range(2800)])
    assert PersistenceBase.input_checksums(Records(), job, "evaluation") == {"sha256:1"}
    assert read == ["card0"]
