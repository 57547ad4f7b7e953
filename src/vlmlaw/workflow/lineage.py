"""Hash what each result descends from: settings and code of every stage before it.

Snakemake compares a job's own settings and its input files. If an input is missing (its job was killed, a cache was not
pulled), it compares nothing, and a result of old settings would pass for one of the new. Each job therefore also
carries the hash of all that its inputs were made from.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.workflow.stage import Read, Stage, Wildcards


class Lineage:
    """Hashes and dependencies of jobs, derived from the table of stages."""

    def __init__(self, stages: Mapping[str, Stage]):
        self.stages = stages
        self._reads: dict[tuple[object, ...], list[Read]] = {}
        self._made: dict[tuple[object, ...], str] = {}

    def code(self, rule: str, wildcards: Wildcards) -> str:
        """Return the fingerprint of the job's code and of the command that calls it."""
        stage = self.stages[rule]
        version = code_version(*stage.code, compressor=wildcards["compressor"] if stage.of_compressor else None)
        return _hash([version, stage.command])

    def upstream(self, rule: str, wildcards: Wildcards) -> str:
        """Return the hash of all that the job's inputs were made from, and of its parameters that no record names."""
        params = self.stages[rule].params.items()
        unnamed = (f"{name} {part(wildcards)}" for name, part in params if name != "settings")
        return _hash([self._hash_behind(rule, wildcards), *unnamed])

    def _hash_behind(self, rule: str, wildcards: Wildcards) -> str:
        return _hash(f"{sorted(read.wildcards.items())} {self._hash_of(read)}" for read in self.reads(rule, wildcards))

    def behind(self, rule: str, wildcards: Wildcards, *, listed: bool | None = None) -> Iterator[Read]:
        """Yield the jobs whose lasting results this job reads, directly or through caches.

        With `listed`, only those that the job's record lists, directly or as inputs of inputs (True), or the others.
        """
        stage = self.stages[rule]
        for name, part in stage.reads.items():
            if listed in (None, name not in stage.many):
                for read in part(wildcards):
                    yield from [read] if self.stages[read.rule].lasts else self.behind(*read.job)

    def reads(self, rule: str, wildcards: Wildcards) -> list[Read]:
        """Return all that the job reads of other jobs."""
        key = (rule, *wildcards.items())
        if key not in self._reads:
            parts = self.stages[rule].reads.values()
            self._reads[key] = [read for part in parts for read in part(wildcards)]
        return self._reads[key]

    def _hash_of(self, read: Read) -> str:
        """Return the hash of what a job makes: of its settings, its code and what its inputs were made from."""
        key = (read.rule, *read.wildcards.items())
        if key not in self._made:
            stage = self.stages[read.rule]
            params = (str(part(read.wildcards)) for name, part in stage.params.items() if name not in stage.own_params)
            self._made[key] = _hash([*params, self.code(*read.job), self._hash_behind(*read.job)])
        return self._made[key]


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
