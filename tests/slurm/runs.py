"""Snakemake with the shipped Slurm profile, started in a project of its own, and what Slurm knows of its jobs."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from workflow.project import Project, environment

from .private_cluster import PrivateCluster

PATIENCE_S = 2700
T = TypeVar("T")
# Slurm's jobs here take seconds, so they are asked after every few; all else is the profile as it is shipped.
SHIPPED = "workflow/profiles/slurm"
PROFILE = ["--profile", SHIPPED, "--slurm-init-seconds-before-status-checks", "4"]
PARTITIONS = {
    "batch": {"max_runtime": 60, "max_threads": 2, "max_mem_mb": 16_000, "max_gpu": 2},
    "short": {"max_runtime": 30, "max_threads": 2, "max_mem_mb": 16_000},
}


@dataclass(frozen=True)
class SlurmJob:
    number: str
    state: str
    reason: str  # why it waits
    comment: str
    name: str
    partition: str
    node: str


@dataclass
class Run:
    """A head process and what it wrote; `text` is all of it."""

    process: subprocess.Popen
    output: Path
    code: int | None = field(default=None)

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self) -> "Run":
        """Until the head process ends."""
        try:
            self.code = self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
        return self


@dataclass
class ClusterProject(Project):
    """A project whose Snakemake submits to Slurm."""

    heads: list[Run] = field(default_factory=list)

    def whatever_happens(self, case: Callable[[PrivateCluster, "ClusterProject"], T], cluster: PrivateCluster) -> T:
        """The case's outcome; no head process outlives it."""
        try:
            return case(cluster, self)
        finally:
            for head in self.heads:
                head.process.kill()

    def start(self, *arguments: str) -> Run:
        """Start a head process in the background. Targets stand before options, since some take several values."""
        return self._start("snakemake", *arguments, *PROFILE)

    def start_dvc(self, *arguments: str) -> Run:
        """Start DVC so, which has Snakemake use the profile, wholly as it is shipped."""
        return self._start("dvc", *arguments, SNAKEMAKE_PROFILE=SHIPPED)

    def _start(self, module: str, *arguments: str, **more: str) -> Run:
        output = self.folder / f"head-{time.monotonic_ns()}.txt"
        command, env = [sys.executable, "-m", module, *arguments], environment() | more
        with output.open("wb") as file:
            process = subprocess.Popen(command, cwd=self.folder, env=env, stdout=file, stderr=file)
        self.heads.append(Run(process, output))
        return self.heads[-1]

    def jobs(self) -> list[SlurmJob]:
        """All of this folder's Slurm jobs, the ended ones too, oldest first."""
        command = ["squeue", "-h", "-t", "all", "-o", "%i|%T|%r|%k|%j|%P|%N|%Z"]

        def listed() -> subprocess.CompletedProcess | None:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done if done.returncode == 0 else None  # while the controller restarts

        rows = [line.split("|") for line in wait_until(listed, "answer of squeue").stdout.splitlines()]
        own = [SlurmJob(*row[:-1]) for row in rows if Path(row[-1]) == self.folder]
        return sorted(own, key=lambda job: int(job.number))

    def job(self, number: str) -> SlurmJob:
        return next(job for job in self.jobs() if job.number == number)

    def running(self, rule: str) -> SlurmJob | None:
        return next(
            (job for job in self.jobs() if job.state == "RUNNING" and job.comment.startswith(f"rule_{rule}")), None
        )

    def attempts(self, rule: str, cell: str) -> list[dict[str, Any]]:
        """What the cell's Slurm jobs recorded of themselves, starts and ends in one."""
        found: dict[float, dict[str, Any]] = {}
        path = self.folder / "results" / "logs" / rule / f"{cell}.attempts.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            data = json.loads(line)
            found.setdefault(data["started"], {}).update(data)
        return [attempt for attempt in found.values() if attempt["slurm_job"]]  # not those of the copied run

    def log(self, rule: str, cell: str) -> str:
        return (self.folder / "results" / "logs" / rule / f"{cell}.log").read_text()

    def use_partitions(self) -> None:
        """Tell the profile of the private cluster's partitions, as a user does once."""
        path = self.folder / "workflow" / "profiles" / "slurm" / "partitions.yaml"
        path.write_text(yaml.safe_dump({"partitions": PARTITIONS}))


def wait_until(condition: Callable[[], T], what: str) -> T:
    """The condition's first value that is not false."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S} s"
        time.sleep(0.3)
    return value
