"""Decide which results are up to date, where Snakemake itself cannot tell.

Snakemake compares settings, code and inputs of a job. It does not see whether outputs are still those that the job made
(a file overwritten by hand would be used), it knows only file times where its own records are missing, and it reruns
every job that ever read a cache when that cache is made again. The records beside the results settle all three.
"""

import atexit
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any

from vlmlaw.runtime.whole_files import sha256_of, whole_file
from vlmlaw.runtime.workspace import clear_workspace
from vlmlaw.workflow import records
from vlmlaw.workflow.plan import Plan
from vlmlaw.workflow.snakemake_patches import (
    accepts_results_of_lost_runs,
    foresees_reruns,
    is_checkpoint_target,
    marked_incomplete,
    record_of_output,
)
from vlmlaw.workflow.stage import Read

DELETES_ALL = "--delete-all-output"
HOME = Path(".snakemake") / "vlmlaw"  # state of this machine, which may be deleted at any time


@dataclass(frozen=True)
class Job:
    """A rule with its wildcards filled in: its record and other outputs, and the parameters that it would get now."""

    rule: str
    record: Path
    outputs: tuple[Path, ...]
    given: Mapping[str, str]
    files: tuple[Any, ...]  # all outputs as Snakemake has them

    @property
    def recorded_as(self) -> Any:
        """The output under which Snakemake records the job."""
        return self.files[0]

    @property
    def name(self) -> str:
        place = self.record.parent.name if self.record.name == records.NAME else self.record.name.split(".")[0]
        return f"{self.rule}-{self.record.parent.name}-{place}"


class Freshness:
    """Decides for the jobs of a plan, in a workflow of Snakemake, whether their results are up to date."""

    def __init__(self, workflow: Any, plan: Plan):
        self._workflow, self._plan = workflow, plan
        self._passing = (*(f"{folder}/" for folder in plan.caches), f"{HOME}/")
        self._digests = _Digests(HOME / "digests.json")
        self._jobs: dict[tuple[Any, ...], Job] = {}
        self._found: dict[Path, tuple[bool, str]] = {}
        self._current: dict[Path, bool] = {}

    def inputs(self, rule: str) -> Callable[[Any], dict[str, list[str]]]:
        """Return all inputs of a rule by name as one function of wildcards, because Snakemake is slow to call each.

        Inputs that are caches are given only if the job has to run.
        """
        named = self._plan.inputs(rule)

        def read(wildcards: Any) -> dict[str, list[str]]:
            plain = dict(wildcards.items())
            hidden = self._hidden_caches(rule, plain)
            given = {name: [] if name in hidden else part(wildcards) for name, part in named.items()}
            return given | {"rerun": self.rerun(rule, plain)}

        return read

    def _hidden_caches(self, rule: str, wildcards: Mapping[str, str]) -> list[str]:
        """Return the names of inputs that are caches, if the job need not run; a forced job gets all inputs.

        Hiding them keeps a cache that is gone, or has other bytes on another machine, from making the job run.
        `ancient()` would not do: once the job of an ancient file runs, Snakemake no longer compares the settings of
        jobs that read it.
        """
        caches = self._plan.cached_inputs(rule, wildcards)
        options = self._workflow.dag_settings
        forced = options is not None and (options.forceall or options.forcerun)
        forced = forced or DELETES_ALL in sys.argv  # deletes caches, too; Snakemake has no setting that says so
        hidden = caches and not forced and foresees_reruns() and self.is_current(rule, wildcards)
        return caches if hidden else []

    def rerun(self, rule: str, wildcards: Mapping[str, str]) -> list[str]:
        """Return a file newer than the job's outputs if these cannot be trusted, so that the job runs; else nothing."""
        job = self._job_of(rule, wildcards)
        trusted, why = self._judge(job)
        if trusted:
            return []
        marker = HOME / "rerun" / job.name
        marker.parent.mkdir(parents=True, exist_ok=True)
        # The content always differs, because Snakemake recognises a file that it saw before by its content.
        marker.write_text(f"{time.time_ns()}: {why}\n")
        return [str(marker)]

    def is_current(self, rule: str, wildcards: Mapping[str, str]) -> bool:
        """Return whether the job's outputs exist, are whole, and are what it and all jobs before it would make."""
        job = self._job_of(rule, wildcards)
        if job.record not in self._current:
            # The jobs before it come last, because they cost most.
            self._current[job.record] = (
                all(path.exists() for path in (job.record, *job.outputs))
                and self._judge(job)[0]
                and self._ended_well(job, wildcards)
                and all(self.is_current(*read.job) for read in self._plan.lineage.behind(rule, wildcards))
                and self._same_inputs(job, wildcards)
            )
        return self._current[job.record]

    def _ended_well(self, job: Job, wildcards: Mapping[str, str]) -> bool:
        """Return whether the outputs were made with the present parameters, by Snakemake's record or else the job's."""
        if marked_incomplete(self._workflow.persistence, job.files):
            return accepts_results_of_lost_runs() and self._is_finished(job, wildcards)
        return self._same_as_recorded(job) is not False

    def is_verified(self, job: Any, file: str) -> bool:
        """Return whether Snakemake's `job` read its input `file` as it is now, by the record beside its result."""
        if not hasattr(job.output, "record") or self._waits_for_a_round(job):
            return False
        if file.startswith(f"{self._plan.results}/"):
            return self.is_current(self._plan.rule_of(job.rule.name), job.wildcards_dict)
        made = self._job_of(self._plan.rule_of(job.rule.name), job.wildcards_dict)
        record = records.read(made.record)
        return record is not None and str(Path(file)) in record.get("read", {}) and self._judge(made)[0]

    def is_finished(self, job: Any) -> bool:
        """Return whether the outputs of Snakemake's `job` are whole and up to date, by the record beside them alone.

        This is asked where Snakemake takes them for incomplete, as it has not heard that the job ended well. The job
        writes its record last.
        """
        if not hasattr(job.output, "record") or self._waits_for_a_round(job):
            return False
        made = self._job_of(self._plan.rule_of(job.rule.name), job.wildcards_dict)
        finished = self._is_finished(made, job.wildcards_dict)
        if finished and "checkpoint_seconds" in self._plan.stages[made.rule].resources:
            clear_workspace(made.record.parent)  # left by a training that was killed right after its end
        return finished

    def _is_finished(self, job: Job, wildcards: Mapping[str, str]) -> bool:
        record = records.read(job.record)
        return (
            record is not None
            and all(path.exists() for path in job.outputs)
            and self._judge(job)[0]
            and all(record[name] == job.given[name] for name in records.GIVEN if name in job.given)
            and self._made_from_what_is_there(job, wildcards)
        )

    def _waits_for_a_round(self, job: Any) -> bool:
        """Return whether the job's inputs are not known yet, because rounds of a design are still to come."""
        return self._plan.design is not None and any(is_checkpoint_target(file) for file in job.input)

    def digest(self, file: str) -> str:
        return self._digests.of(Path(file))

    def _job_of(self, name: str, wildcards: Mapping[str, str]) -> Job:
        """Return the job of a rule: its outputs by the rule itself, and its present parameters."""
        key = (name, *sorted(wildcards.items()))
        if key not in self._jobs:
            self._jobs[key] = self._filled(name, dict(wildcards.items()))
        return self._jobs[key]

    def _filled(self, name: str, wildcards: dict[str, str]) -> Job:
        names = (rule.name for rule in self._workflow.rules)  # with a prefix where this workflow is a module
        rule = self._workflow.get_rule(next(given for given in names if given == name or given.endswith(f"_{name}")))
        record = Path(rule.output.record.apply_wildcards(wildcards))
        files = tuple(output.apply_wildcards(wildcards) for output in rule.output)
        others = tuple(Path(file) for file in files if Path(file) != record)
        given = {key: part(wildcards) for key, part in self._plan.params(name).items()}
        return Job(rule=name, record=record, outputs=others, given=given, files=files)

    def _same_as_recorded(self, job: Job) -> bool | None:
        """Return whether Snakemake's record of the job has its present parameters; None if there is no record."""
        record = record_of_output(self._workflow.persistence, job.recorded_as)
        if record is None or record.params is None:
            return None
        return set(record.params) == {repr(value) for value in job.given.values()}

    def _same_inputs(self, job: Job, wildcards: Mapping[str, str]) -> bool:
        """Return whether the lasting files that the job read are unchanged, as far as they were recorded."""
        record = record_of_output(self._workflow.persistence, job.recorded_as)
        if record is None:
            return self._made_from_what_is_there(job, wildcards)
        read = (record.input_checksums or {}).items()
        lasting = ((Path(file), digest) for file, digest in read if not file.startswith(self._passing))
        return all(path.exists() and self._digests.of(path) == digest.split(":")[-1] for path, digest in lasting)

    def _made_from_what_is_there(self, job: Job, wildcards: Mapping[str, str]) -> bool:
        """Return whether the results that a job read are those of its own record, or older than it if it lists none."""
        own = records.read(job.record)
        if own is None:
            return False
        read = {part["content"] for _, part in records.walk(own["inputs"])}
        listed, others = (
            [self._record_of(behind) for behind in self._plan.lineage.behind(job.rule, wildcards, listed=listed)]
            for listed in (True, False)
        )
        return all(one and one["content"] in read for one in listed) and all(
            one and one["at"] <= own["at"] for one in others
        )

    def _record_of(self, read: Read) -> dict[str, Any] | None:
        return records.read(self._job_of(read.rule, read.wildcards).record)

    def _judge(self, job: Job) -> tuple[bool, str]:
        """Return whether the outputs may be used, and if not, why; True if there are none yet."""
        if job.record not in self._found:
            self._found[job.record] = self._judged(job)
            trusted, why = self._found[job.record]
            if not trusted:
                print(f"{job.record.parent}: {why}; {job.rule} runs again.", file=sys.stderr)
        return self._found[job.record]

    def _judged(self, job: Job) -> tuple[bool, str]:
        record = records.read(job.record)
        if record is None:
            return self._judged_without_record(job)
        for name, identity in record["files"].items():
            path = job.record.parent / name
            if path.exists() and not self._digests.matches(path, identity):
                return False, f"{name} is not the file that was made (`dvc checkout --force` would bring that back)"
        for name, identity in records.files_read(record):
            if Path(name).exists() and not self._digests.matches(Path(name), identity):
                return False, f"{name} is not the file that was read"
        other = [name for name in records.GIVEN if name in job.given and record[name] != job.given[name]]
        # Snakemake's record may not excuse a difference, because `--touch` records results that no job made. Where its
        # record differs, too, it runs the job by itself.
        if other and self._same_as_recorded(job) is not False:
            return False, f"made from other {' and '.join(other)}"
        return True, ""

    def _judged_without_record(self, job: Job) -> tuple[bool, str]:
        """Judge a job without a readable record; if the record is damaged, Snakemake's own counts."""
        left = [path for path in job.outputs if path.exists()]
        if left and job.record.exists() and len(left) == len(job.outputs) and self._same_as_recorded(job):
            print(
                f"{job.record} is damaged or was altered; the result counts by Snakemake's own record.", file=sys.stderr
            )
            return True, ""
        return not left, f"{left[0].name} has no record of what made it" if left else ""


class _Digests:
    """Hashes of files, remembered while size and time of a file stay the same."""

    def __init__(self, path: Path):
        self._path, self._fresh = path, False

    @cached_property
    def _known(self) -> dict[str, list[Any]]:
        try:
            known = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def matches(self, path: Path, identity: Mapping[str, Any]) -> bool:
        """Return whether the file is that of a record, reading it only if size, time and known hashes do not tell."""
        status = path.stat()
        if not S_ISREG(status.st_mode) or status.st_size != identity["bytes"]:
            return False
        if status.st_mtime_ns == identity["mtime_ns"]:
            self._known[str(path)] = [status.st_size, status.st_mtime_ns, identity["sha256"]]
            return True
        return self.of(path) == identity["sha256"]

    def of(self, path: Path) -> str:
        """Return the file's hash, remembered for as long as its size and time stay the same."""
        status = path.stat()
        size, time, digest = self._known.get(str(path)) or (None, None, "")
        if (size, time) != (status.st_size, status.st_mtime_ns):
            digest = sha256_of(path)
            if not self._fresh:
                self._fresh = True
                atexit.register(self._save)
            self._known[str(path)] = [status.st_size, status.st_mtime_ns, digest]
        return digest

    def _save(self) -> None:
        try:
            with whole_file(self._path) as partial:
                partial.write_text(json.dumps(self._known))
        except OSError:
            pass  # the folder cannot be written, so the next process hashes again
