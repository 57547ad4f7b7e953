"""Patches of Snakemake internals, for what this workflow needs and no setting or hook of Snakemake offers.

Each patch stands alone. It names the internals that it relies on with the shape that they had when it was written, what
a run loses without it, and the change in Snakemake that would make it unnecessary. If one of the internals is missing
or has another shape, the patch is left out, the run goes on, and one line on stderr says what is lost. Queries that
only internals answer are guarded in the same way, with a cautious answer for a Snakemake that they do not know.
"""

import inspect
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from copy import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlmlaw.workflow.attempts import UNRECOVERABLE, failures
from vlmlaw.workflow.internals import ATTRIBUTE, PROPERTY, RELIANCES, Part, relies_on

_REPLACED: dict[tuple[type, str], Any] = {}  # Snakemake's own attributes, which a second `apply` puts back first


def apply(
    workflow: Any,
    *,
    is_verified: Callable[[Any, str], bool],
    digest: Callable[[str], str],
    is_finished: Callable[[Any], bool],
) -> None:
    """Apply every patch that fits this Snakemake; the head process says once what is lost without the others.

    `is_verified` and `digest` are for `trust_record_without_checksum`, `is_finished` is for
    `accept_results_of_lost_runs`. A second call replaces the first.
    """
    for (owner, name), own in _REPLACED.items():
        setattr(owner, name, own)
    no_retry_of_unrecoverable_jobs()
    keep_locks_of_other_runs()
    trust_record_without_checksum(is_verified, digest)
    omit_unused_conda_env(workflow)
    record_inputs_once()
    record_results_inside_cluster_jobs(workflow)
    accept_results_of_lost_runs(is_finished)
    accept_inputs_dated_ahead()
    pass_over_damaged_records()
    if is_head_process(workflow):
        _say_what_is_lost()


@cache
def _say_what_is_lost() -> None:
    from snakemake import __version__

    lost = [
        f"{reliance.lost} ({reliance.name}: {', '.join(reliance.differences)})"
        for reliance in RELIANCES.values()
        if reliance.differences
    ]
    if lost:
        about = f"Snakemake {__version__} has internals that vlmlaw does not know; the run goes on, but"
        print(about, "; ".join(lost), file=sys.stderr)


def _replace(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a class's attribute by what `make` returns for the present one: Snakemake's, or another patch of it."""
    present = inspect.getattr_static(owner, name)
    _REPLACED.setdefault((owner, name), present)
    setattr(owner, name, make(present))


# Patches.


@relies_on(
    Part("snakemake.jobs", "Job", "restart_times", PROPERTY),
    Part("snakemake.jobs", "Job", "log", PROPERTY),
    Part("snakemake.jobs", "GroupJob", "restart_times", PROPERTY),
    Part("snakemake.jobs", "GroupJob", "jobs", PROPERTY),
    lost="jobs that cannot succeed are tried again as often as `retries` allows",
    until="https://github.com/snakemake/snakemake/issues/2441: a workflow decides whether to try a job again",
)
def no_retry_of_unrecoverable_jobs() -> None:
    """Do not retry a job whose last attempt found that no attempt can succeed.

    `retries` is a number for a rule, whatever the cause of a failure. But after each failure the scheduler asks the job
    how often it may be restarted.
    """
    from snakemake.jobs import GroupJob, Job

    def asking(jobs_of: Callable[[Any], Iterable[Any]]) -> Callable[[property], property]:
        def make(own: property) -> property:
            def restart_times(job: Any) -> int:
                last = [failures(part.log[0])[-1:] for part in jobs_of(job) if part.log]
                return 0 if any(cause in UNRECOVERABLE for causes in last for cause in causes) else own.__get__(job)

            return property(restart_times)

        return make

    _replace(Job, "restart_times", asking(lambda job: [job]))
    _replace(GroupJob, "restart_times", asking(lambda group: group.jobs))


@relies_on(
    Part("snakemake.persistence.file", "FilePersistence", "_delete_locks", "(self)"),
    Part("snakemake.persistence.file", "FilePersistence", "_lockfile", ATTRIBUTE),
    Part("snakemake.persistence.file", "FilePersistence", "_lockdir", ATTRIBUTE),
    Part("snakemake.persistence", "PersistenceBase", "cleanup_locks", "(self)"),
    lost="a run that ends takes away the locks of all others in its folder",
    until="no issue found: a run that ends deletes only the lock files that it wrote",
)
def keep_locks_of_other_runs() -> None:
    """Have a run that ends remove its own locks only; `--unlock` still removes all.

    Snakemake lets two runs that make different files share a folder, but the first to end removes the folder of all
    locks. `snakemake models`, with nothing to do beside a run that trains cells, would let a third one train the same.
    """
    from snakemake.persistence.file import FilePersistence

    def delete_own(self: Any) -> None:
        for path in self._lockfile.values():
            Path(path).unlink(missing_ok=True)
        self._lockfile.clear()

    def delete_all(self: Any) -> None:
        shutil.rmtree(self._lockdir, ignore_errors=True)

    _replace(FilePersistence, "_delete_locks", lambda own: delete_own)
    _replace(FilePersistence, "cleanup_locks", lambda own: delete_all)


@relies_on(
    Part("snakemake.persistence", "PersistenceBase", "input_checksums", "(self, job, input_path)"),
    lost="where caches or `.snakemake` are missing, as in a clone, they are made again and the jobs that read them run",
    until="https://github.com/snakemake/snakemake/issues/2210: records can be written for results that are there",
)
def trust_record_without_checksum(is_verified: Callable[[Any, str], bool], digest: Callable[[str], str]) -> None:
    """Have an input without a recorded checksum count as unchanged if `is_verified(job, file)` says so.

    Snakemake runs a job whose input is newer than its result, unless the job's record has the input's checksum. Where
    the record is missing, as in a clone without `.snakemake`, times alone would decide.
    """
    from snakemake.persistence import PersistenceBase

    def make(own: Callable[..., set[Any]]) -> Callable[..., set[Any]]:
        def input_checksums(self: Any, job: Any, input_path: Any) -> set[Any]:
            # A job's outputs are recorded together, with the same inputs, so one tells of all. Reading the records of
            # 2,800 cards for each of as many inputs takes hours.
            known = own(self, SimpleNamespace(output=job.output[:1]), input_path)
            file = str(input_path)
            return {f"sha256:{digest(file)}"} if None in known and is_verified(job, file) else known

        return input_checksums

    _replace(PersistenceBase, "input_checksums", make)


@relies_on(
    Part("snakemake.persistence", "PersistenceBase", "_conda_env", "(self, job)"),
    lost="every output's record holds the conda environment, which makes it three times as large",
    until="no issue found: the environment is recorded only where jobs run in it, as `software_stack_hash` is",
)
def omit_unused_conda_env(workflow: Any) -> None:
    """Have the records of outputs hold the conda environment only where jobs run in one.

    Otherwise each record holds the whole file in base64: 9 of its 13 kB, which no decision of Snakemake needs.
    """
    from snakemake.persistence import PersistenceBase
    from snakemake.settings.types import DeploymentMethod

    settings = workflow.deployment_settings
    used = settings is not None and DeploymentMethod.CONDA in settings.deployment_method
    _replace(PersistenceBase, "_conda_env", lambda own: own if used else lambda self, job: None)


class _OfOneOutput:
    """A job of Snakemake's as if its first output were its only one."""

    def __init__(self, job: Any):
        self.whole, self.output = job, job.output[:1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __hash__(self) -> int:
        return hash(self.whole)

    def __eq__(self, other: object) -> bool:
        return bool(self.whole == other)


@relies_on(
    Part("snakemake.persistence", "PersistenceBase", "finished", "async (self, job)"),
    Part("snakemake.persistence", "PersistenceBase", "input_checksums", "(self, job, input_path)"),
    Part("snakemake.persistence", "PersistenceBase", "metadata", "(self, target)"),
    Part("snakemake.persistence", "PersistenceBase", "_write_record", "(self, key, record)"),
    Part("snakemake.persistence", "PersistenceBase", "_unmark_incomplete", "(self, key)"),
    Part("snakemake.persistence", "PersistenceBase", "_clear_cache", "(self)"),
    Part("snakemake.persistence", "PersistenceBase", "_get_key", "(self, f)"),
    Part("snakemake.persistence", "MetadataRecord", "input", ATTRIBUTE),
    Part("snakemake.persistence", "MetadataRecord", "input_checksums", ATTRIBUTE),
    Part("snakemake.persistence", "MetadataRecord", "job_hash", ATTRIBUTE),
    lost="every output's record lists all inputs of its job, so that runs with nothing to do take longer",
    until="no issue found: inputs are recorded for a job and not for each of its outputs",
)
def record_inputs_once() -> None:
    """Have only the record of a job's first output list the inputs; Snakemake takes the others as unchanged.

    2,800 cards that one job makes from as many evaluations and trainings would have 2,800 records of 1 MB, after 15
    million questions for the hash of an input.
    """
    from snakemake.persistence import PersistenceBase

    def make(own: Callable[..., Any]) -> Callable[..., Any]:
        async def finished(self: Any, job: Any) -> None:
            await own(self, _OfOneOutput(job) if len(job.output) > 1 else job)
            self._clear_cache()  # which has the first output's record from before
            record: Any = copy(self.metadata(job.output[0])) if job.output[1:] else None
            # A process that leaves recording to its head finds the record of an earlier run, whose hash is another.
            written = record is not None and record.job_hash == hash(job)
            if written:
                record.input = record.input_checksums = None
            for key in map(self._get_key, job.output[1:]):
                if written:
                    self._write_record(key, record)
                self._unmark_incomplete(key)

        return finished

    _replace(PersistenceBase, "finished", make)


@relies_on(
    Part("snakemake.persistence", "PersistenceBase", "finished", "async (self, job)"),
    Part("snakemake.workflow", "Workflow", "remote_exec", PROPERTY),
    Part("snakemake.settings.types", "RemoteExecutionSettings", "immediate_submit", ATTRIBUTE),
    lost="jobs of a cluster that end after their head process was killed are not recorded, and may run again",
    until="no issue found: a remote job that shares the folder's records writes its own, as with `--immediate-submit`",
)
def record_results_inside_cluster_jobs(workflow: Any) -> None:
    """Have a cluster's job itself record what its outputs were made with.

    Otherwise only the head process does, when it hears of the job's end. If the head was killed, cells that finished
    without it would be made again (if there is an older record) or accepted whatever their settings (if there is none).
    """
    from snakemake.persistence import PersistenceBase

    def make(own: Callable[..., Any]) -> Callable[..., Any]:
        async def finished(self: Any, job: Any) -> None:
            settings = workflow.remote_execution_settings
            before, settings.immediate_submit = settings.immediate_submit, True  # the other case in which jobs record
            try:
                await own(self, job)
            finally:
                settings.immediate_submit = before

        return finished if workflow.remote_exec else own

    _replace(PersistenceBase, "finished", make)


@relies_on(
    Part("snakemake.persistence", "PersistenceBase", "incomplete", "async (self, job)"),
    Part("snakemake.persistence", "PersistenceBase", "finished", "async (self, job)"),
    Part("snakemake.dag", "DAG", "update_jobids", "(self)"),
    lost="results of jobs that ended after their head process was killed are made again",
    until="no issue found: a job's own word, such as a file that it writes last, says that its outputs are complete",
)
def accept_results_of_lost_runs(is_finished: Callable[[Any], bool]) -> None:
    """Accept outputs that a killed run left marked as incomplete if `is_finished(job)` finds them whole.

    Snakemake marks outputs when their job starts, and removes the mark when it hears of the job's end. A job whose head
    was killed may still end well, and its own record, written last, says so.
    """
    from snakemake.persistence import PersistenceBase

    def make(own: Callable[..., Any]) -> Callable[..., Any]:
        async def incomplete(self: Any, job: Any) -> list[Any]:
            if marked_incomplete(self, job.output) and is_finished(job):
                job.dag.update_jobids()  # the record holds the job's id, which Snakemake assigns later
                await self.finished(job)
            return await own(self, job)

        return incomplete

    _replace(PersistenceBase, "incomplete", make)


@relies_on(
    Part("snakemake.dag", "DAG", "check_output_mtime", "async (self, job, expanded_output)"),
    lost="jobs whose inputs are dated ahead of this machine's clock fail after they have done their work",
    until="no issue found: `rerun-triggers` without `mtime` needs no order of times",
)
def accept_inputs_dated_ahead() -> None:
    """Give a finished job's outputs the time of its newest input if a fast clock has dated that later than now.

    Snakemake would fail the job for it, after hours of training and at every attempt, although here inputs are compared
    by content.
    """
    from snakemake.dag import DAG

    def make(own: Callable[..., Any]) -> Callable[..., Any]:
        async def check_output_mtime(self: Any, job: Any, expanded_output: Any) -> None:
            times = [Path(file).stat().st_mtime_ns for file in job.input if Path(file).exists()]
            newest = max(times, default=0)
            for path in map(Path, expanded_output):
                if path.exists() and path.stat().st_mtime_ns < newest:
                    bearing_it = path / ".snakemake_timestamp" if path.is_dir() else path
                    if bearing_it.exists():
                        os.utime(bearing_it, ns=(newest, newest))
            await own(self, job, expanded_output)

        return check_output_mtime

    _replace(DAG, "check_output_mtime", make)


@relies_on(
    Part("snakemake.persistence.file", "FilePersistence", "_read_record", "(self, key)"),
    Part("snakemake.persistence.file", "FilePersistence", "_record_path", "(self, subject, id)"),
    Part("snakemake.persistence.file", "FilePersistence", "_metadata_path", ATTRIBUTE),
    lost="a damaged file of Snakemake's own ends the run in a traceback",
    until="no issue found: `_io_read` ignores records that are cut off, but not those with other damage",
)
def pass_over_damaged_records() -> None:
    """Treat a record of Snakemake's that cannot be read as missing, so that the record beside the result counts."""
    from snakemake.persistence.file import FilePersistence

    def make(own: Callable[..., Any]) -> Callable[..., Any]:
        def _read_record(self: Any, key: str) -> Any:
            try:
                return own(self, key)
            except (OSError, ValueError, TypeError) as error:
                path = self._record_path(self._metadata_path, key)
                _say_once(f"{path}: damaged ({type(error).__name__}); the record beside {key} counts instead.")
                return None

        return _read_record

    _replace(FilePersistence, "_read_record", make)


@cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)


# Queries about a run.


def _has_marks(persistence: Any, files: Iterable[Any]) -> bool:
    """Return whether any file is marked at all, by the folder of marks; True if there is no such folder."""
    folder = Path(persistence.path) / "incomplete"
    return not folder.is_dir() or any(folder.iterdir())


@relies_on(
    Part("snakemake.persistence", "PersistenceBase", "_filter_incomplete_keys", "(self, keys)"),
    Part("snakemake.persistence", "PersistenceBase", "_get_key", "(self, f)"),
    lost="after a run that was killed, data and features are made again although no job needs them",
    until="no issue found: `incomplete` answers for a file, and outside of the event loop",
    otherwise=_has_marks,
)
def marked_incomplete(persistence: Any, files: Iterable[Any]) -> bool:
    """Return whether Snakemake takes one of these outputs for incomplete: its run was killed before the job's end."""
    return bool(persistence._filter_incomplete_keys([persistence._get_key(file) for file in files]))


@relies_on(
    Part("snakemake.persistence", "PersistenceBase", "metadata", "(self, target)"),
    Part("snakemake.persistence", "MetadataRecord", "params", ATTRIBUTE),
    Part("snakemake.persistence", "MetadataRecord", "input_checksums", ATTRIBUTE),
    lost="results are judged by the records beside them alone, and where caches are missing, their readers run again",
    until="no issue found: a documented way to read an output's record",
)
def record_of_output(persistence: Any, file: Any) -> Any:
    """Return Snakemake's record of an output, with `params` and `input_checksums`; None if there is none."""
    return persistence.metadata(file)


def is_checkpoint_target(file: Any) -> bool:
    """Return whether an input stands for inputs that are known only once a checkpoint has run."""
    return bool(getattr(file, "flags", {}).get("checkpoint_target"))


def foresees_reruns() -> bool:
    """Return whether jobs run only if our own records say that their results are not up to date.

    Without access to Snakemake's records, a job may also run by Snakemake's decision, and then needs all its inputs.
    """
    needed = (trust_record_without_checksum.__name__, record_of_output.__name__)
    return not any(RELIANCES[name].differences for name in needed)


def accepts_results_of_lost_runs() -> bool:
    """Return whether results of jobs that ended after their head was killed count (see the patch of that name)."""
    return not RELIANCES[accept_results_of_lost_runs.__name__].differences


@relies_on(
    Part("snakemake.workflow", "Workflow", "global_resources", ATTRIBUTE),
    Part("snakemake.workflow", "Workflow", "local_exec", PROPERTY),
    Part("snakemake.resources", "Resource", "value", PROPERTY),
    lost="jobs that share this machine's GPUs do not divide its cores among them",
    until="no issue found: `workflow` offers the limits given by --resources, as it does `workflow.cores`",
)
def limit_of_this_machine(workflow: Any, resource: str) -> int | None:
    """Return the limit of a resource for all jobs together if they run on this machine; None without a limit."""
    limit = workflow.global_resources.get(resource) if workflow.local_exec else None
    return limit.value if limit is not None else None


def _config_unknown(workflow: Any) -> dict[str, Any]:
    """Return the whole configuration as if it came from the command line."""
    return {"files": [], "given": dict(workflow.globals["config"]), "texts": []}


@relies_on(
    Part("snakemake.workflow", "Workflow", "config_settings", ATTRIBUTE),
    Part("snakemake.settings.types", "ConfigSettings", "config", ATTRIBUTE),
    Part("snakemake.settings.types", "ConfigSettings", "configfiles", ATTRIBUTE),
    Part("snakemake.settings.types", "ConfigSettings", "config_args", ATTRIBUTE),
    lost="--configfile and --config are read without a check for repeated keys and ambiguous values",
    until="no issue found: `workflow` offers what --configfile and --config gave, each for itself",
    otherwise=_config_unknown,
)
def config_given(workflow: Any) -> dict[str, Any]:
    """Return the `files` of --configfile, the values `given` by --config, and its `texts` `key=value`."""
    settings = workflow.config_settings
    texts = list(settings.config_args or ())
    return {"files": list(settings.configfiles), "given": dict(settings.config), "texts": texts}


@relies_on(
    Part("snakemake.workflow", "Workflow", "is_main_process", PROPERTY),
    lost="messages that a run prints once are printed by each job of a cluster, too",
    until="no issue found: `workflow.is_main_process` is documented",
    otherwise=True,
)
def is_head_process(workflow: Any) -> bool:
    """Return whether this process plans and starts jobs, rather than being a cluster's job."""
    return workflow.is_main_process
