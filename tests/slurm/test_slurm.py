"""The shipped Slurm profile against a real Slurm, with real training cells: `make test-slurm`.

The cases run side by side, each in its own copy of a finished tiny run, of which it changes what it needs. A test waits
for its case and looks at what came of it.
"""

import hashlib
import json
import re
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from .runs import ClusterProject, wait_until

pytestmark = pytest.mark.slurm

CELL = "3k_v4_block_linear_s0"
FOLDER = f"results/cells/{CELL}"
LONG = {"steps": 400, "checkpoint_seconds": 0.5}
SLOW_S = 70  # what a training takes that shall not end within Slurm's shortest limit, a minute


# The cases. Each gets the cluster and a project, and returns what the tests look at.


def all_green(cluster, project):
    """Every cell of one size again, each job with a GPU, to the report."""
    project.change("compute", {"gpus": 1})
    project.change("sizes.3k.training", {"steps": 60})
    run = project.start().wait()
    return SimpleNamespace(run=run, jobs=project.jobs(), project=project)


def one_bad_cell(cluster, project):
    """One size diverges, whatever one gives it; another is well."""
    project.change("sizes.14k.training", {"learning_rate": 1.0e30})
    project.change("sizes.49k.training", {"steps": 50})
    cells = ("14k_v1_block_linear_s0", "49k_v1_block_linear_s0")
    run = project.start(*(f"results/cells/{cell}/training.json" for cell in cells)).wait()
    status = json.loads(project.vlmlaw("status", "--json").stdout)
    return SimpleNamespace(run=run, jobs=project.jobs(), status=status, cells=cells, project=project)


def too_little_memory(cluster, project):
    """A job that is asked less memory for than Python and torch take."""
    project.edit("src/vlmlaw/resources.py", "BASE_MB = 1500", "BASE_MB = 450")
    project.change("sizes.3k.training", {"steps": 60})
    run = project.start(f"{FOLDER}/training.json").wait()
    return SimpleNamespace(run=run, jobs=project.jobs(), attempts=project.attempts("train_cell", CELL))


def too_little_time(cluster, project):
    """A training of more than a minute, asked a minute for."""
    seconds = json.loads((project.folder / FOLDER / "training.json").read_text())
    steps = round(SLOW_S * seconds["steps"] / seconds["wall_seconds"])
    project.edit("src/vlmlaw/resources.py", "BASE_MINUTES = 10", "BASE_MINUTES = 1")
    project.edit("src/vlmlaw/resources.py", "SLACK = 3", "SLACK = 0")
    project.change("sizes.3k.training", {"steps": steps, "checkpoint_seconds": 5.0})
    run = project.start(f"{FOLDER}/training.json").wait()
    attempts, log = project.attempts("train_cell", CELL), project.log("train_cell", CELL)
    return SimpleNamespace(run=run, jobs=project.jobs(), attempts=attempts, log=log)


def uninterrupted(cluster, project):
    """What the interrupted trainings have to equal."""
    project.change("sizes.3k.training", LONG)
    project.snakemake(f"{FOLDER}/evaluation.json")
    return made(project)


def cancelled(cluster, project):
    """scancel in the midst of the training."""
    project.change("sizes.3k.training", LONG)
    run = project.start(f"{FOLDER}/evaluation.json")
    job = in_mid_training(project)
    status = json.loads(project.vlmlaw("status", "--json").stdout)
    subprocess.run(["scancel", job.number], check=True)
    run.wait()
    log = project.log("train_cell", CELL)
    return SimpleNamespace(run=run, jobs=project.jobs(), first=job, status=status, log=log, made=made(project))


def node_down(cluster, project):
    """The node dies in the midst of the training; Slurm notices and puts the job back into its queue."""
    project.change("sizes.3k.training", LONG)
    run = project.start(f"{FOLDER}/evaluation.json", "--default-resources", "slurm_partition=fragile", "mem_mb=1000")
    job = in_mid_training(project)
    cluster.kill_node(job.node)
    wait_until(lambda: state_of(project, job.number) == "PENDING", "requeued job")
    # Slurm lets two minutes pass before it starts a requeued job; a test need not.
    subprocess.run(["scontrol", "update", f"JobId={job.number}", "StartTime=now"], check=True)
    run.wait()
    after = next(other for other in project.jobs() if other.number == job.number)
    return SimpleNamespace(run=run, before=job, after=after, log=project.log("train_cell", CELL), made=made(project))


def head_killed(cluster, project):
    """kill -9 of Snakemake while its job trains, and the controller restarts; then Snakemake is started again."""
    project.change("sizes.3k.training", LONG)
    first = project.start(f"{FOLDER}/evaluation.json")
    job = in_mid_training(project)
    subprocess.run(["scontrol", "suspend", job.number], check=True)  # or it might end before all this is done
    first.process.kill()
    first.process.wait()
    cluster.restart_controller()
    locked = project.start(f"{FOLDER}/evaluation.json").wait()
    project.snakemake("--unlock")
    refused = project.start(f"{FOLDER}/evaluation.json").wait()
    subprocess.run(["scontrol", "resume", job.number], check=True)
    waited = project.vlmlaw("orphans", "--wait")
    last = project.start(f"{FOLDER}/evaluation.json").wait()
    outcomes = {"locked": locked, "refused": refused, "waited": waited, "last": last}
    return SimpleNamespace(**outcomes, job=job, jobs=project.jobs(), made=made(project))


def grouped(cluster, project):
    """Four short evaluations as one Slurm job."""
    project.change("evaluation.batch_size", 16)
    cells = [f"3k_v{n}_block_linear_s0" for n in (1, 4, 36)]
    targets = [f"results/cells/{cell}/evaluation.json" for cell in cells]
    run = project.start(*targets, "--groups", "evaluate_cell=short", "--group-components", "short=3").wait()
    return SimpleNamespace(run=run, jobs=project.jobs())


CASES = (
    too_little_time,
    all_green,
    node_down,
    head_killed,
    cancelled,
    one_bad_cell,
    too_little_memory,
    uninterrupted,
    grouped,
)


def in_mid_training(project):
    """The Slurm job, once its training has left a checkpoint."""
    wait_until((project.folder / f"{FOLDER}.work" / "checkpoint.pt").exists, "checkpoint")
    job = project.running("train_cell")
    assert job is not None, project.jobs()
    return job


def state_of(project, number):
    return next(job.state for job in project.jobs() if job.number == number)


def made(project):
    """What a cell's training and evaluation made, without the times that they took."""
    folder = project.folder / FOLDER
    evaluation = json.loads((folder / "evaluation.json").read_text())
    losses = [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]
    return {
        "evaluation": {key: value for key, value in evaluation.items() if "seconds" not in key},
        "weights": hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "losses": losses,
    }


@pytest.fixture(scope="module")
def case(cluster, finished_once, tmp_path_factory, request):
    """A function that waits for a case and returns what it returned; started are those that selected tests name."""

    def start(run) -> Future:
        folder = tmp_path_factory.mktemp(run.__name__) / "project"
        shutil.copytree(finished_once.folder, folder)
        project = ClusterProject(folder)
        project.use_partitions()
        return pool.submit(run, cluster, project)

    named = {name for item in request.session.items for name in item.function.__code__.co_names}
    with ThreadPoolExecutor(len(CASES)) as pool:
        started = {run.__name__: start(run) for run in CASES if run.__name__ in named}
        yield lambda run: started[run.__name__].result()


def test_every_cell_is_green_and_the_report_is_written(case):
    done = case(all_green)
    assert done.run.code == 0, done.run.text[-3000:]
    assert {job.state for job in done.jobs} == {"COMPLETED"}
    assert (done.project.folder / "results" / "report" / "index.html").stat().st_size > 10_000
    trained = [job.comment for job in done.jobs if job.comment.startswith("rule_train_cell")]
    assert len(trained) == len(set(trained)) == 4, "one job for each cell"


def test_a_job_says_which_cell_it_is(case):
    jobs = case(all_green).jobs
    assert {job.comment for job in jobs} >= {
        "rule_train_cell_wildcards_3k_4_block_linear_0",
        "rule_evaluate_cell_wildcards_3k_4_quecc_0",
    }
    assert all(job.name.startswith("vlmlaw_") for job in jobs)


def test_a_gpu_is_asked_for_and_seen_by_the_job(case):
    done = case(all_green)
    attempts = done.project.attempts("train_cell", CELL)
    assert [job.partition for job in done.jobs] == ["batch"] * len(done.jobs)
    assert attempts[-1]["gpus"] == 1
    assert re.fullmatch("[01]", attempts[-1]["devices"]), "one of the node's two"
    assert "gpu:1" in subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True).stdout


def test_head_node_rules_do_not_enter_the_queue(case):
    rules = {re.split("_wildcards", job.comment)[0] for job in case(all_green).jobs}
    assert rules == {"rule_train_cell", "rule_evaluate_cell"}


def test_a_job_over_its_memory_limit_gets_twice_as_much(case):
    done = case(too_little_memory)
    assert done.run.code == 0, done.run.text[-3000:]
    asked = [attempt["memory_mb"] for attempt in done.attempts]
    assert len(asked) >= 2 and asked == [asked[0] * 2**i for i in range(len(asked))]
    assert [attempt["cause"] for attempt in done.attempts] == [None] * (len(asked) - 1) + ["done"]
    assert {job.partition for job in done.jobs} == {"short"}, "a job without GPUs goes to the smaller partition"


def test_a_job_over_its_time_limit_gets_twice_as_much_and_goes_on(case):
    done = case(too_little_time)
    assert done.run.code == 0, done.run.text[-3000:]
    asked = [attempt["minutes"] for attempt in done.attempts]
    assert len(asked) >= 2 and asked == [2**i for i in range(len(asked))]
    assert done.jobs[0].state == "TIMEOUT" and done.jobs[-1].state == "COMPLETED"
    assert "carrying on with the interrupted training" in done.log


def test_a_cancelled_training_goes_on_and_ends_the_same(case):
    done = case(cancelled)
    assert done.run.code == 0, done.run.text[-3000:]
    assert [job.state for job in done.jobs] == ["CANCELLED", "COMPLETED", "COMPLETED"]
    assert "carrying on with the interrupted training" in done.log
    assert done.made == case(uninterrupted)


def test_the_status_shows_a_running_cell_without_the_lock(case):
    done = case(cancelled)
    running = [cell for cell in done.status["cells"] if cell["state"] == "running"]
    assert [cell["cell"] for cell in running] == [CELL]
    assert f"Slurm job {done.first.number}" in running[0]["detail"]


def test_a_training_survives_its_node(case):
    done = case(node_down)
    assert done.run.code == 0, done.run.text[-3000:]
    assert done.after.node != done.before.node
    assert "carrying on with the interrupted training" in done.log
    assert done.made == case(uninterrupted)


def test_a_killed_head_leaves_its_jobs_noticed_and_loses_nothing(case):
    done = case(head_killed)
    assert "cannot be locked" in done.locked.text
    assert done.refused.code != 0 and f"  {done.job.number} SUSPENDED rule_train_cell" in done.refused.text
    assert done.waited.returncode == 0, done.waited.stdout + done.waited.stderr
    assert done.last.code == 0, done.last.text[-3000:]
    assert [job.comment.split("_wildcards")[0] for job in done.jobs] == ["rule_train_cell", "rule_evaluate_cell"]
    assert done.made == case(uninterrupted)


def test_a_bad_cell_is_tried_once_named_with_its_log_and_stops_no_other(case):
    done = case(one_bad_cell)
    bad, good = done.cells
    assert done.run.code == 1
    assert sorted(job.state for job in done.jobs) == ["COMPLETED", "FAILED"], "no second attempt at the bad one"
    assert (done.project.folder / "results" / "cells" / good / "training.json").exists()
    assert "1 cell(s) failed:" in done.run.text
    assert f"log: results/logs/train_cell/{bad}.log" in done.run.text
    failed = [cell for cell in done.status["cells"] if cell["state"] == "failed"]
    assert [cell["cell"] for cell in failed] == [bad]
    assert "both must be finite" in failed[0]["detail"]


def test_short_cells_share_a_job(case):
    done = case(grouped)
    assert done.run.code == 0, done.run.text[-3000:]
    assert [job.state for job in done.jobs] == ["COMPLETED"]
    assert "evaluate_cell" in done.jobs[0].comment
