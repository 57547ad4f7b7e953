"""The shipped profiles: Snakemake accepts them, and what they ask a cluster for is what the rules mean."""

import http.server
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.iocontainers import Wildcards

from vlmlaw.workflow.plan import Plan
from workflow.project import environment, new_project, tiny_experiment

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "workflow" / "profiles"
pytestmark = pytest.mark.workflow
A_CELL = Wildcards(fromdict=dict(size="3k", n_visual_tokens="4", compressor="block_linear", seed="0"))
A_LARGER_CELL = Wildcards(fromdict=dict(size="49k", n_visual_tokens="4", compressor="block_linear", seed="0"))


@pytest.fixture
def project(tmp_path):
    return new_project(tmp_path / "project", tiny_experiment() | {"compute": {"gpus": 1}})


def dry_run(project, profile, *arguments, **variables):
    command = ["python", "-m", "snakemake", "--dry-run", "--profile", f"workflow/profiles/{profile}", *arguments]
    env = environment() | variables
    done = subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def test_slurm_plans_every_job_with_its_resources(project):
    text = dry_run(project, "slurm", "--printshellcmds")
    assert re.search(r"^train_cell +10$", text, re.MULTILINE)
    trainings = [line for line in text.splitlines() if " train --aligned " in line]
    assert len(trainings) == 10
    assert all(re.search(r"--memory-mb 15\d\d --minutes 11 --gpus 1 ", line) for line in trainings)


def test_the_rules_ask_several_gpus_profile_for_one_each(project):
    text = dry_run(project, "gpus", "--printshellcmds", "--cores", "8")
    assert len(re.findall(r"--gpus 1 .* train --aligned ", text)) == 10


@pytest.mark.parametrize(
    ("cores", "devices", "local", "threads"),
    [(32, 4, True, 8), (2, 4, True, 1), (32, 0, True, 1), (32, 4, False, 1)],
)
def test_jobs_side_by_side_divide_a_machines_cores(cores, devices, local, threads):
    limits = {"gpu": SimpleNamespace(value=devices)} if devices else {}
    workflow = SimpleNamespace(global_resources=limits, local_exec=local, cores=cores)
    assert Plan(tiny_experiment() | {"compute": {"gpus": 1}}).threads("train_cell", workflow)(A_CELL) == threads
    without_gpus = Plan(tiny_experiment()).threads("train_cell", workflow)
    assert without_gpus(A_CELL) == 1, "an experiment without GPUs is left alone"


def test_a_training_that_needs_more_gpus_gets_their_share_of_cores():
    small = {"gpus": 1, "threads": 8, "gpu_memory_gb": 1.0e-4}  # the weights with their training state fill several
    plan = Plan(tiny_experiment() | {"compute": small})
    on_cluster = SimpleNamespace(global_resources={}, local_exec=False, cores=None)
    assert plan.needs.gpus("train_cell")(A_CELL) == 1 and plan.needs.gpus("train_cell")(A_LARGER_CELL) == 16
    assert plan.threads("train_cell", on_cluster)(A_LARGER_CELL) == 16 * 8
    assert plan.threads("evaluate_cell", on_cluster)(A_CELL) == 8


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*/profile.yaml")), ids=lambda path: path.parent.name)
def test_no_profile_stops_at_the_first_failure_or_names_a_machine(path):
    profile = yaml.safe_load(path.read_text())
    assert profile["keep-going"] is True
    assert "/home/" not in path.read_text()


def test_example_partitions_are_ones_the_plugin_reads(tmp_path):
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    text = (PROFILES / "slurm" / "partitions.yaml").read_text()
    assert read_partition_file(PROFILES / "slurm" / "partitions.yaml") == []
    example = text.partition("For example:\n")[2].partition("\npartitions:")[0]
    (tmp_path / "example.yaml").write_text("\n".join(line[4:] for line in example.splitlines()))
    found = {part.name: part.limits for part in read_partition_file(tmp_path / "example.yaml")}
    assert found["gpu"].max_gpu == 8 and found["gpu"].max_runtime == 2 * 24 * 60
    assert found["short"].max_gpu == 0


class _Api(http.server.BaseHTTPRequestHandler):
    """As much of Kubernetes' API as accepts a job (what is posted is kept and echoed), and an empty bucket of S3."""

    posted: list[tuple[str, dict]]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.posted.append((self.path, body))
        self._answer(body)

    def do_GET(self):
        if self.path.startswith("/BUCKET"):
            name = "<Name>BUCKET</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"
            self._send(200, f"<ListBucketResult>{name}</ListBucketResult>".encode(), kind="application/xml")
        else:
            self._answer({"status": {"active": 1}, "items": []})

    def do_HEAD(self):
        self._send(200 if self.path.rstrip("/") == "/BUCKET" else 404, b"")

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, b"")

    def do_DELETE(self):
        self._send(204, b"")

    def _answer(self, body):
        self._send(200, json.dumps(body).encode())

    def _send(self, status, content, *, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Quiet."""


def test_kubernetes_is_sent_jobs_with_their_resources(project, tmp_path):
    why = "pip install snakemake-executor-plugin-kubernetes snakemake-storage-plugin-s3 to run this"
    plugin = pytest.importorskip("snakemake_executor_plugin_kubernetes", reason=why)
    pytest.importorskip("snakemake_storage_plugin_s3", reason=why)
    _Api.posted = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    config = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config | {"current-context": "x", "kind": "Config"}))
    command = [sys.executable, "-m", "snakemake", "results/data/test/index.npz"]
    command += ["--profile", "workflow/profiles/kubernetes", "--container-image", "vlmlaw:test"]
    command += ["--storage-s3-endpoint-url", f"http://127.0.0.1:{server.server_port}"]
    env = environment(warm=False) | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "no_proxy": "127.0.0.1"}
    env |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    env["PYTHONPATH"] = str(Path(plugin.__file__).parents[1])
    with (tmp_path / "out.txt").open("w") as out:
        run = subprocess.Popen(command, cwd=project.folder, env=env, stdout=out, stderr=out)
    deadline = time.monotonic() + 120
    while not jobs() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    run.kill()
    run.wait()
    server.shutdown()
    assert jobs(), (tmp_path / "out.txt").read_text()[-3000:]
    spec = jobs()[0]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["image"] == "vlmlaw:test"
    assert container["resources"]["limits"]["memory"] == "1000M"
    assert container["resources"]["requests"]["cpu"] == "950m"


def jobs():
    return [body for path, body in _Api.posted if path.endswith("/jobs")]
