"""What the Snakemake of pyproject.toml has no setting for, done where its own code asks; tests have each for real."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vlmlaw.workflow.attempts import UNRECOVERABLE, failures


def give_up_hopeless_jobs() -> None:
    """Have Snakemake try no job again whose last attempt said that none can succeed.

    `retries` is a number for a rule, whatever a job failed of, and there is no hook. But when a job has failed, the
    scheduler asks it how often it may be restarted: `Job.restart_times`, which looks at the attempts here.
    """
    from snakemake.jobs import GroupJob, Job

    for kind, parts in ((Job, lambda job: [job]), (GroupJob, lambda group: group.jobs)):
        kind.restart_times = property(_unless_hopeless(kind.restart_times.fget, parts))


def _unless_hopeless(restart_times: Any, parts: Any) -> Any:
    """The getter, which first looks at the attempts of each part; replacing it twice does no harm."""

    def allowed(job: Any) -> int:
        ends = [failures(part.log[0])[-1:] for part in parts(job) if part.log]
        return 0 if any(end and end[0] in UNRECOVERABLE for end in ends) else restart_times(job)

    return allowed


def keep_the_locks_of_others() -> None:
    """Have a run that ends take away its own locks only; `--unlock` still takes all.

    Snakemake lets two runs in one folder that make different files, but the first to end removes the folder of all
    locks. `snakemake models`, with nothing to do beside a run that trains cells, would let a third one train the same.
    """
    from snakemake.persistence.file import FilePersistence

    def delete_own(self: Any) -> None:
        for path in self._lockfile.values():
            Path(path).unlink(missing_ok=True)
        self._lockfile.clear()

    FilePersistence._delete_locks = delete_own
    FilePersistence.cleanup_locks = lambda self: shutil.rmtree(self._lockdir, ignore_errors=True)


def ask_where_no_checksum_is_known(vouches: Callable[[Any, str], bool], digest: Callable[[str], str]) -> None:
    """Have an input count as unchanged where Snakemake recorded nothing of it, but `vouches(job, file)` does.

    Snakemake runs a job whose input is newer than its result and not the file that the job read by its own record.
    Where the record is missing, as in a clone without `.snakemake`, times alone would decide.
    """
    from snakemake.persistence import PersistenceBase

    asked = getattr(PersistenceBase.input_checksums, "asked", PersistenceBase.input_checksums)

    def input_checksums(self: Any, job: Any, input_path: Any) -> set[Any]:
        known = asked(self, job, input_path)
        file = str(input_path)
        return {f"sha256:{digest(file)}"} if None in known and vouches(job, file) else known

    input_checksums.asked = asked  # type: ignore[attr-defined]
    PersistenceBase.input_checksums = input_checksums


def leave_out_unused_environments() -> None:
    """Have the record of an output hold the conda environment only where its job ran in one.

    It is the whole file in base64, in the record of every output: 9 of 13 kB, which no question of Snakemake's needs.
    """
    from snakemake.persistence import PersistenceBase
    from snakemake.settings.types import DeploymentMethod

    whole = getattr(PersistenceBase._conda_env, "whole", PersistenceBase._conda_env)

    def where_used(self: Any, job: Any) -> str | None:
        used = DeploymentMethod.CONDA in self.dag.workflow.deployment_settings.deployment_method
        return whole(self, job) if used else None

    where_used.whole = whole  # type: ignore[attr-defined]
    PersistenceBase._conda_env = where_used


def marked_incomplete(persistence: Any, files: Iterable[Any]) -> bool:
    """Whether Snakemake takes one of these outputs for half made: its run was killed before it heard of the end."""
    return bool(persistence._filter_incomplete_keys([persistence._get_key(file) for file in files]))


def record_inside_cluster_jobs() -> None:
    """Have a cluster's job itself record what its outputs were made with; to be called in such a job.

    Otherwise only the head process does, when it hears of the end. After a head that was killed, cells which finished
    without it would be made again (where an older record is there) or taken whatever their settings (where none is).
    """
    from snakemake.persistence import PersistenceBase

    finished = PersistenceBase.finished

    async def finished_and_recorded(self: Any, job: Any) -> None:
        settings = self.dag.workflow.remote_execution_settings
        before, settings.immediate_submit = settings.immediate_submit, True  # the other case in which jobs record
        try:
            await finished(self, job)
        finally:
            settings.immediate_submit = before

    PersistenceBase.finished = finished_and_recorded
