"""Decide which results are up to date, where the workflow engine itself cannot see it.

Snakemake asks after settings, code and inputs of a job, but neither whether its outputs are still those that it made
(a file overwritten by hand would be used), nor, where its own records are missing, after anything but file times. And
where a cache has to be made again, it reruns all that ever read it. Records beside the results answer all three.
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

from vlmlaw.runtime.whole_files import whole_file
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
HOME = Path(".snakemake") / "vlmlaw"  # what this machine knows; nothing breaks where it is deleted


@dataclass(frozen=True)
class Job:
    """A rule with its wildcards filled in: its record and other outputs, and what it would be given now."""

    rule: str
    record: Path
    outputs: tuple[Path, ...]
    given: Mapping[str, str]
    files: tuple[Any, ...]  # all outputs as Snakemake has them

    @property
    def recorded_as(self) -> Any:
        """The output by which Snakemake's own records know the job."""
        return self.files[0]

    @property
    def name(self) -> str:
        place = self.record.parent.name if self.record.name == records.NAME else self.record.name.split(".")[0]
        return f"{self.rule}-{self.record.parent.name}-{place}"


class Freshness:
    """Questions about the jobs of a plan, in a workflow of Snakemake."""

    def __init__(self, workflow: Any, plan: Plan):
        self._workflow, self._plan = workflow, plan
        self._passing = (*(f"{folder}/" for folder in plan.caches), f"{HOME}/")
        self._digests = _Digests(HOME / "digests.json")
        self._jobs: dict[tuple[Any, ...], Job] = {}
        self._found: dict[Path, tuple[bool, str]] = {}
        self._current: dict[Path, bool] = {}

    def inputs(self, rule: str) -> Callable[[Any], dict[str, list[str]]]:
        """All inputs of a rule by name, as one function of wildcards: Snakemake takes its time to call each.

        Those that are caches are given only where the job has to run.
        """
        named = self._plan.inputs(rule)

        def read(wildcards: Any) -> dict[str, list[str]]:
            plain = dict(wildcards.items())
            hidden = self._hidden_caches(rule, plain)
            given = {name: [] if name in hidden else part(wildcards) for name, part in named.items()}
            return given | {"rerun": self.rerun(rule, plain)}

        return read

    def _hidden_caches(self, rule: str, wildcards: Mapping[str, str]) -> list[str]:
        """The inputs that are caches, where the job needs not run.

        A cache that is gone, or made again with other bytes on another machine, does not make a job run. Not
        `ancient()`: Snakemake asks no job that reads an ancient file after its own settings once that file's job runs.
        A forced job gets them.
        """
        caches = self._plan.cached_inputs(rule, wildcards)
        options = self._workflow.dag_settings
        forced = options is not None and (options.forceall or options.forcerun)
        forced = forced or DELETES_ALL in sys.argv  # which is to take the caches, too; Snakemake tells nobody of it
        hidden = caches and not forced and foresees_reruns() and self.is_current(rule, wildcards)
        return caches if hidden else []

    def rerun(self, rule: str, wildcards: Mapping[str, str]) -> list[str]:
        """A file newer than the job's outputs where they cannot be trusted, so that the job runs; else nothing."""
        job = self._job_of(rule, wildcards)
        trusted, why = self._judge(job)
        if trusted:
            return []
        marker = HOME / "rerun" / job.name
        marker.parent.mkdir(parents=True, exist_ok=True)
        # Never the same twice: Snakemake knows a file that it saw before by its content.
        marker.write_text(f"{time.time_ns()}: {why}\n")
        return [str(marker)]

    def is_current(self, rule: str, wildcards: Mapping[str, str]) -> bool:
        """Whether the job's outputs are there, whole, and what it and all before it would make now."""
        job = self._job_of(rule, wildcards)
        if job.record not in self._current:
            # What stands behind comes last: it is the costliest question.
            self._current[job.record] = (
                all(path.exists() for path in (job.record, *job.outputs))
                and self._judge(job)[0]
                and self._ended_well(job, wildcards)
                and all(self.is_current(*read.job) for read in self._plan.lineage.behind(rule, wildcards))
                and self._same_inputs(job, wildcards)
            )
        return self._current[job.record]

    def _ended_well(self, job: Job, wildcards: Mapping[str, str]) -> bool:
        """Whether the job made its outputs from what it would be given now, by Snakemake's word or else by its own."""
        if marked_incomplete(self._workflow.persistence, job.files):
            return accepts_results_of_lost_runs() and self._is_finished(job, wildcards)
        return self._same_as_recorded(job) is not False

    def is_verified(self, job: Any, file: str) -> bool:
        """Whether `file`, an input of Snakemake's `job`, is what the job read, by the record beside its result."""
        if not hasattr(job.output, "record") or self._waits_for_a_round(job):
            return False
        if file.startswith(f"{self._plan.results}/"):
            return self.is_current(self._plan.rule_of(job.rule.name), job.wildcards_dict)
        made = self._job_of(self._plan.rule_of(job.rule.name), job.wildcards_dict)
        record = records.read(made.record)
        return record is not None and str(Path(file)) in record.get("read", {}) and self._judge(made)[0]

    def is_finished(self, job: Any) -> bool:
        """Whether the outputs of Snakemake's `job` are whole and what it would make, by the record beside them alone.

        Asked where Snakemake takes them for half made: it does not know that the job, which writes its record last, has
        ended well.
        """
        if not hasattr(job.output, "record") or self._waits_for_a_round(job):
            return False
        made = self._job_of(self._plan.rule_of(job.rule.name), job.wildcards_dict)
        finished = self._is_finished(made, job.wildcards_dict)
        if finished and "checkpoint_seconds" in self._plan.stages[made.rule].resources:
            clear_workspace(made.record.parent)  # which a training that was killed right after its end left
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
        """Whether it is not known yet what the job reads: rounds of a design are still to come."""
        return self._plan.design is not None and any(is_checkpoint_target(file) for file in job.input)

    def digest(self, file: str) -> str:
        return self._digests.of(Path(file))

    def _job_of(self, name: str, wildcards: Mapping[str, str]) -> Job:
        """The job of a rule, from the rule itself: its outputs, and its parameters as they are now."""
        key = (name, *sorted(wildcards.items()))
        if key not in self._jobs:
            self._jobs[key] = self._filled(name, dict(wildcards.items()))
        return self._jobs[key]

    def _filled(self, name: str, wildcards: dict[str, str]) -> Job:
        names = (rule.name for rule in self._workflow.rules)  # in a module with words before them
        rule = self._workflow.get_rule(next(given for given in names if given == name or given.endswith(f"_{name}")))
        record = Path(rule.output.record.apply_wildcards(wildcards))
        files = tuple(output.apply_wildcards(wildcards) for output in rule.output)
        others = tuple(Path(file) for file in files if Path(file) != record)
        given = {key: part(wildcards) for key, part in self._plan.params(name).items()}
        return Job(rule=name, record=record, outputs=others, given=given, files=files)

    def _same_as_recorded(self, job: Job) -> bool | None:
        """Whether Snakemake's record of the job has these parameters; None where it has none."""
        record = record_of_output(self._workflow.persistence, job.recorded_as)
        if record is None or record.params is None:
            return None
        return set(record.params) == {repr(value) for value in job.given.values()}

    def _same_inputs(self, job: Job, wildcards: Mapping[str, str]) -> bool:
        """Whether what the job read and lasts is what it was, as far as it has been recorded."""
        record = record_of_output(self._workflow.persistence, job.recorded_as)
        if record is None:
            return self._made_from_what_is_there(job, wildcards)
        read = (record.input_checksums or {}).items()
        lasting = ((Path(file), digest) for file, digest in read if not file.startswith(self._passing))
        return all(path.exists() and self._digests.of(path) == digest.split(":")[-1] for path, digest in lasting)

    def _made_from_what_is_there(self, job: Job, wildcards: Mapping[str, str]) -> bool:
        """Whether the results behind a job are those that its own record names; one that names none must be later."""
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
        """Whether the outputs may be used, and else why not; True where there is nothing yet."""
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
        # Snakemake's own word does not count where it differs: `--touch` has it say what nobody made. Where it says so
        # too, it runs the job by itself.
        if other and self._same_as_recorded(job) is not False:
            return False, f"made from other {' and '.join(other)}"
        return True, ""

    def _judged_without_record(self, job: Job) -> tuple[bool, str]:
        """The same for a job without a record that can be read: where one was damaged, Snakemake's own answers."""
        left = [path for path in job.outputs if path.exists()]
        if left and job.record.exists() and len(left) == len(job.outputs) and self._same_as_recorded(job):
            print(
                f"{job.record} is damaged or was altered; by Snakemake's own record the result counts.", file=sys.stderr
            )
            return True, ""
        return not left, f"{left[0].name} has no record of what made it" if left else ""


class _Digests:
    """Hashes of files that are as they were when last hashed."""

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
        """Whether the file is the one of a record; read only where size, time and memory do not tell."""
        status = path.stat()
        if not S_ISREG(status.st_mode) or status.st_size != identity["bytes"]:
            return False
        if status.st_mtime_ns == identity["mtime_ns"]:
            self._known[str(path)] = [status.st_size, status.st_mtime_ns, identity["sha256"]]
            return True
        return self.of(path) == identity["sha256"]

    def of(self, path: Path) -> str:
        """The file's hash, remembered for as long as its size and time stay the same."""
        status = path.stat()
        size, time, digest = self._known.get(str(path)) or (None, None, "")
        if (size, time) != (status.st_size, status.st_mtime_ns):
            digest = records.sha256(path)
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
            pass  # a folder that cannot be written: the next process hashes again
