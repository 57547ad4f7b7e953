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

from workflow.project import put_under_dvc

from .runs import ClusterProject, wait_until

pytestmark = pytest.mark.slurm

CELL = "3k_v4_block_linear_s0"
FOLDER = f"results/cells/{CELL}"
LONG = {"steps": 2500, "checkpoint_seconds": 0.5}  # time enough to be interrupted in


# The cases. Each gets the cluster and a project, and returns what the tests look at.


def all_green(cluster, project):
    """Every cell of one size again, to the report; each training asks for a GPU, which torch has no use for here."""
    project.change("sizes.3k.training", {"steps": 60})
    return outcome(project, project.start("--set-resources", "train_cell:gpu=1").wait())


def by_dvc(cluster, project):
    """A recorded run whose one size changes: `dvc repro`, with the profile in the environment."""
    put_under_dvc(project, remote=project.folder.parent / "remote")
    project.vlmlaw("adopt")
    project.change("sizes.3k.training", {"steps": 60})
    return outcome(project, project.start_dvc("repro").wait())


def one_bad_cell(cluster, project):
    """One size diverges, whatever one gives it; another is well."""
    project.change("sizes.14k.training", {"learning_rate": 1.0e30})
    project.change("sizes.49k.training", {"steps": 50})
    cells = ("14k_v1_block_linear_s0", "49k_v1_block_linear_s0")
    run = project.start(*(f"results/cells/{cell}/training.json" for cell in cells)).wait()
    status = json.loads(project.vlmlaw("status", "--json").stdout)
    return outcome(project, run, status=status, cells=cells)


def too_little_memory(cluster, project):
    """A job that is asked less memory for than Python and torch take."""
    project.edit("src/vlmlaw/workflow/resources.py", "BASE_MB = 1500", "BASE_MB = 450")
    project.change("sizes.3k.training", {"steps": 60})
    return outcome(project, project.start(f"{FOLDER}/training.json").wait())


def too_little_time(cluster, project):
    """A training hangs, as on a file system that does, until Slurm's time limit ends its job."""
    project.edit("src/vlmlaw/workflow/resources.py", "BASE_MINUTES = 10", "BASE_MINUTES = 2")
    project.edit("src/vlmlaw/workflow/resources.py", "SLACK = 3", "SLACK = 0")
    project.change("sizes.3k.training", LONG)
    run = project.start(f"{FOLDER}/training.json")
    job = in_mid_training(project, run)
    subprocess.run(["scancel", "--signal=STOP", job.number], check=True)
    run.wait()
    return outcome(project, run, trained=trained(project))


def uninterrupted(cluster, project):
    """What the interrupted trainings have to equal, without a cluster."""
    project.change("sizes.3k.training", LONG)
    project.snakemake(f"{FOLDER}/evaluation.json")
    return SimpleNamespace(trained=trained(project), evaluated=evaluated(project))


def cancelled(cluster, project):
    """scancel in the midst of the training."""
    project.change("sizes.3k.training", LONG)
    run = project.start(f"{FOLDER}/evaluation.json")
    job = in_mid_training(project, run)
    status = json.loads(project.vlmlaw("status", "--json").stdout)
    subprocess.run(["scancel", job.number], check=True)
    run.wait()
    return outcome(project, run, first=job, status=status, trained=trained(project), evaluated=evaluated(project))


def preempted(cluster, project):
    """A job of a partition that goes first takes the node; Slurm puts the training back into its queue."""
    project.change("sizes.3k.training", LONG)
    run = project.start(f"{FOLDER}/training.json", *in_partition("contested"))
    job = in_mid_training(project, run)
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wait", "--wrap=true"]
    subprocess.run(urgent, cwd=project.folder, check=True)
    start_requeued(project, job)
    run.wait()
    return outcome(project, run, first=job, trained=trained(project))


def node_down(cluster, project):
    """The node dies in the midst of the training; Slurm notices and puts the job back into its queue."""
    project.change("sizes.3k.training", LONG)
    run = project.start(f"{FOLDER}/training.json", *in_partition("fragile"))
    job = in_mid_training(project, run)
    cluster.kill_node(job.node)
    start_requeued(project, job)
    run.wait()
    return outcome(project, run, first=job, trained=trained(project))


def head_killed(cluster, project):
    """kill -9 of Snakemake while its job trains, and the controller restarts; then Snakemake is started again."""
    project.change("sizes.3k.training", LONG)
    first = project.start(f"{FOLDER}/training.json")
    job = in_mid_training(project, first)
    subprocess.run(["scontrol", "suspend", job.number], check=True)  # or it might end before all this is done
    first.process.kill()
    first.process.wait()
    cluster.restart_controller()
    project.snakemake("--unlock")
    refused = project.start(f"{FOLDER}/training.json").wait()
    subprocess.run(["scontrol", "resume", job.number], check=True)
    waited = project.vlmlaw("orphans", "--wait", check=False)
    run = project.start(f"{FOLDER}/training.json").wait()
    return outcome(project, run, first=job, refused=refused, waited=waited, trained=trained(project))


def grouped(cluster, project):
    """Short evaluations as one Slurm job."""
    project.change("evaluation.batch_size", 16)
    cells = [f"3k_v{n}_block_linear_s0" for n in (1, 4)]
    targets = [f"results/cells/{cell}/evaluation.json" for cell in cells]
    short = ["--groups", "evaluate_cell=short", "--group-components", f"short={len(cells)}"]
    return outcome(project, project.start(*targets, *short).wait())


# Those that wait for Slurm first.
CASES = (
    too_little_time,
    node_down,
    preempted,
    head_killed,
    cancelled,
    too_little_memory,
    by_dvc,
    all_green,
    one_bad_cell,
    uninterrupted,
    grouped,
)


def outcome(project, run, **more):
    """What every case returns: the project, the head process and its Slurm jobs."""
    return SimpleNamespace(project=project, run=run, jobs=project.jobs(), **more)


def in_mid_training(project, run):
    """The Slurm job, once its training has left a whole checkpoint."""

    def job():
        assert run.process.poll() is None, f"ended before there was a checkpoint: {run.text[-3000:]}"
        saved = any((project.folder / f"{FOLDER}.work").glob("checkpoint-*/state.json"))
        return project.running("train_cell") if saved else None

    return wait_until(job, "checkpoint")


def in_partition(name):
    return ["--default-resources", f"slurm_partition={name}", "mem_mb=1000"]


def start_requeued(project, before):
    """Have Slurm start the job again at once; it lets two minutes pass before it does so by itself."""

    def is_requeued():
        job = project.job(before.number)
        return job.state == "PENDING" and job.reason == "BeginTime"

    wait_until(is_requeued, "requeued job")
    subprocess.run(["scontrol", "update", f"JobId={before.number}", "StartTime=now"], check=True)


def trained(project):
    """The training's weights and losses."""
    folder = project.folder / FOLDER
    losses = [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(), losses


def evaluated(project):
    """The cell's metrics, without the times that they took."""
    metrics = json.loads((project.folder / FOLDER / "evaluation.json").read_text())
    return {key: value for key, value in metrics.items() if "seconds" not in key}


@pytest.fixture(scope="module")
def case(cluster, finished_once, tmp_path_factory, request):
    """A function that waits for a case and returns what it returned; started are those that selected tests name."""

    def start(run) -> Future:
        folder = tmp_path_factory.mktemp(run.__name__) / "project"
        shutil.copytree(finished_once.folder, folder)
        project = ClusterProject(folder)
        project.use_partitions()
        return pool.submit(project.whatever_happens, run, cluster)

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


def test_dvc_repro_submits_the_cells_that_a_change_touches(case):
    done = case(by_dvc)
    assert done.run.code == 0, done.run.text[-3000:]
    trained = [job.comment for job in done.jobs if job.comment.startswith("rule_train_cell")]
    assert len(trained) == len(set(trained)) == 4 and all("_3k_" in comment for comment in trained)
    assert {job.state for job in done.jobs} == {"COMPLETED"}
    assert done.project.status() == {} and done.project.planned() == {}


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
    assert {job.partition for job in done.jobs if job.comment.startswith("rule_train_cell")} == {"batch"}
    assert attempts[-1]["gpus"] == 1
    assert re.fullmatch("[01]", attempts[-1]["devices"]), "one of the node's two"
    assert "gpu:1" in subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True).stdout


def test_head_node_rules_do_not_enter_the_queue(case):
    rules = {re.split("_wildcards", job.comment)[0] for job in case(all_green).jobs}
    assert rules == {"rule_train_cell", "rule_evaluate_cell"}


def test_a_job_over_its_memory_limit_gets_twice_as_much(case):
    done = case(too_little_memory)
    attempts = done.project.attempts("train_cell", CELL)
    assert done.run.code == 0, done.run.text[-3000:]
    asked = [attempt["memory_mb"] for attempt in attempts]
    assert len(asked) >= 2 and asked == [asked[0] * 2**i for i in range(len(asked))]
    assert [attempt["cause"] for attempt in attempts] == [None] * (len(asked) - 1) + ["done"]
    assert {job.partition for job in done.jobs} == {"short"}, "a job without GPUs goes to the smaller partition"


def test_a_job_over_its_time_limit_gets_twice_as_much_and_goes_on(case):
    done = case(too_little_time)
    assert done.run.code == 0, done.run.text[-3000:]
    assert [attempt["minutes"] for attempt in done.project.attempts("train_cell", CELL)] == [2, 4]
    assert [job.state for job in done.jobs] == ["TIMEOUT", "COMPLETED"]
    assert went_on(done)
    assert done.trained == case(uninterrupted).trained


def test_a_cancelled_training_goes_on_and_ends_the_same(case):
    done = case(cancelled)
    assert done.run.code == 0, done.run.text[-3000:]
    assert [job.state for job in done.jobs] == ["CANCELLED", "COMPLETED", "COMPLETED"]
    assert went_on(done)
    assert done.trained == case(uninterrupted).trained
    assert done.evaluated == case(uninterrupted).evaluated


def test_the_status_shows_a_running_cell_without_the_lock(case):
    done = case(cancelled)
    running = [cell for cell in done.status["cells"] if cell["state"] == "running"]
    assert [cell["cell"] for cell in running] == [CELL]
    assert f"Slurm job {done.first.number}" in running[0]["detail"]


def test_a_preempted_training_goes_on_in_the_same_job(case):
    done = case(preempted)
    assert done.run.code == 0, done.run.text[-3000:]
    assert [(job.number, job.state) for job in done.jobs if job.partition == "contested"] == [
        (done.first.number, "COMPLETED")
    ]
    memory_mb = [attempt["memory_mb"] for attempt in done.project.attempts("train_cell", CELL)]
    assert len(memory_mb) == 2 and memory_mb[0] == memory_mb[1], "being preempted is no want of memory"
    assert went_on(done)
    assert done.trained == case(uninterrupted).trained


def test_a_training_survives_its_node(case):
    done = case(node_down)
    assert done.run.code == 0, done.run.text[-3000:]
    assert [job.number for job in done.jobs] == [done.first.number]
    assert done.jobs[0].node != done.first.node
    assert went_on(done)
    assert done.trained == case(uninterrupted).trained


def test_a_killed_head_leaves_its_jobs_noticed_and_loses_nothing(case):
    done = case(head_killed)
    assert done.refused.code != 0 and f"  {done.first.number} SUSPENDED rule_train_cell" in done.refused.text
    assert done.waited.returncode == 0, done.waited.stdout + done.waited.stderr
    assert done.run.code == 0, done.run.text[-3000:]
    assert [job.number for job in done.jobs] == [done.first.number], "the cell was not trained twice"
    assert done.trained == case(uninterrupted).trained


def went_on(done):
    return "carrying on with the interrupted training" in done.project.log("train_cell", CELL)


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
