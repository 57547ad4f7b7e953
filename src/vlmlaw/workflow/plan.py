"""Turn the table of stages into what Snakemake needs: each rule's inputs, outputs, parameters, resources and command.

A rule's `params:` hold exactly what its result depends on, and therefore so does Snakemake's record of a job. What
changes no result (memory, threads, times) is among its resources.
"""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from vlmlaw.experiment.experiment import Experiment
from vlmlaw.experiment.training_costs import relative_cost
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.runtime.memo import recall, remember
from vlmlaw.settings import to_json
from vlmlaw.workflow.design import design_of
from vlmlaw.workflow.lineage import Lineage
from vlmlaw.workflow.reads import Reads
from vlmlaw.workflow.resources import Needs
from vlmlaw.workflow.snakemake_patches import limit_of_this_machine
from vlmlaw.workflow.stage import MODEL, PROPOSE, RULE_OF_RUNNER, TRAIN, Read, Stage, name_of
from vlmlaw.workflow.stages import stages_of

# A job records beside its log how it ended, for retries and `vlmlaw status`, and reserves its GPUs.
MEASURED = " --log {log:q} --memory-mb {resources.mem_mb:q} --minutes {resources.runtime:q} --gpus {resources.gpu:q}"
RECORDED = " --record {output.record:q} --code {params.code:q} --upstream {params.upstream:q}"
FIRST = 1_000_000  # priority of jobs that every cell waits for


class Plan:
    """What Snakemake's rules need of one experiment."""

    def __init__(self, config: Mapping[str, Any], *, source: str = "experiment"):
        self.experiment = Experiment.from_mapping(config, source=source)
        self.results = self.experiment.results
        self.compute = self.experiment.compute
        self.design = design_of(self.experiment)
        self.stages = stages_of(self.experiment, self.design)
        self.lineage = Lineage(self.stages)
        self.needs = Needs(self.experiment, self.stages)

    @property
    def rules(self) -> list[str]:
        """The rules of all stages, except for a design's rounds, which are checkpoints."""
        return [rule for rule in self.stages if rule != PROPOSE]

    # Files.

    def files(self, read: Read) -> list[str]:
        """Return the paths of what a job reads of another job."""
        paths = self.stages[read.rule].paths(*read.files)
        return [f"{self.results}/{path.format_map(read.wildcards)}".rstrip("/") for path in paths]

    def inputs(self, rule: str) -> dict[str, Callable[[Any], list[str]]]:
        """Return the rule's inputs by name, each a function of wildcards."""
        stage = self.stages[rule]
        return _of_wildcards({name: partial(self._read, part) for name, part in stage.reads.items()} | {**stage.theirs})

    def _read(self, part: Callable[[Any], Any], wildcards: Mapping[str, str]) -> list[str]:
        return [file for read in part(wildcards) for file in self.files(read)]

    def cached_inputs(self, rule: str, wildcards: Mapping[str, str]) -> list[str]:
        """Return the names of a lasting result's inputs that are caches, whose loss does not rerun it."""
        stage = self.stages[rule]
        return [
            name
            for name, part in (stage.reads.items() if stage.lasts else ())
            if any(not self.stages[read.rule].lasts for read in part(wildcards))
        ]

    def outputs(self, rule: str) -> dict[str, list[str] | str]:
        """Return the rule's outputs with wildcards in braces: its files, and the record of what made them."""
        stage = self.stages[rule]
        files = [f"{self.results}/{path}" for path in stage.paths()]
        return {"files": files, "record": f"{self.results}/{stage.paths(stage.record)[0]}"}

    def record_of(self, rule: str, wildcards: Mapping[str, str]) -> str:
        """Return the path of the record beside a job's result."""
        return self.files(Read(rule, wildcards, (self.stages[rule].record,)))[0]

    def constraints(self) -> dict[str, str]:
        """Return the pattern of each wildcard."""
        experiment = self.experiment
        compressors = sorted({cell.compressor for cell in [*experiment.cells.values(), *experiment.trainings.values()]})
        names = {"split": [*experiment.splits, "text"], "size": experiment.sizes, "compressor": compressors}
        words = {name: "|".join(map(re.escape, values)) for name, values in names.items()}
        return words | {"n_visual_tokens": "[0-9]+", "seed": "[0-9]+", "round": "[0-9]+"}

    def own_constraints(self, rule: str) -> dict[str, str]:
        """Return the patterns of wildcards that are narrower in this rule than in others."""
        by = next((runner for runner, name in RULE_OF_RUNNER.items() if name == rule), None)
        names = [own.name for own in self.experiment.evaluation.benchmarks if by in (None, own.by)]
        own = {"benchmark": "|".join(map(re.escape, names)) or "none"}
        return own | ({"split": "|".join(self.experiment.splits)} if rule == self.pictures_rule else {})

    # What a result depends on.

    def params(self, rule: str) -> dict[str, Callable[[Any], Any]]:
        """Return the rule's parameters by name, each a function of wildcards."""
        of_code = {name: partial(getattr(self.lineage, name), rule) for name in ("code", "upstream")}
        named: dict[str, Callable[[Any], Any]] = {**self.stages[rule].params, **of_code}
        return _of_wildcards({name: partial(self._param, part, (rule, name)) for name, part in named.items()})

    @cached_property
    def _params(self) -> dict[tuple[Any, ...], Any]:
        return {}

    def _param(self, part: Callable[[Any], Any], key: tuple[str, str], wildcards: Mapping[str, str]) -> Any:
        """Return a job's parameter, which Snakemake and `Freshness` both ask for; rounds of a design may change it."""
        known = (*key, *wildcards.items())
        if self.design or known not in self._params:
            self._params[known] = part(wildcards)
        return self._params[known]

    # What changes no result.

    def resources(self, rule: str) -> dict[str, Any]:
        """Return the memory, minutes and GPUs that a job requests, and its settings that change no result."""
        stage, needs = self.stages[rule], self.needs
        own = _of_wildcards(stage.resources)
        if not stage.measured:
            memory = needs.doubling(stage.memory_mb, most=self.compute.max_memory_mb)
            return {
                "mem_mb": needs.tokenizing_memory_mb if rule == "tokenize" else memory,
                "runtime": needs.doubling(stage.minutes, most=self.compute.max_minutes),
                **own,
            }
        asked = {
            "mem_mb": needs.memory_mb(rule, least=stage.memory_mb),
            "runtime": needs.minutes(rule, least=stage.minutes),
            "gpu": needs.gpus(rule),
        }
        if "{compute}" in stage.command:
            own["compute"] = lambda wildcards: to_json(replace(self.compute, gpus=asked["gpu"](wildcards)))
        return {**asked, **own}

    def threads(self, rule: str, workflow: Any) -> Any:
        """Return the threads of a job, in proportion where it gets more GPUs than the experiment's.

        Jobs that share one machine's GPUs divide its cores. A job that measures time gets all cores.
        """
        stage = self.stages[rule]
        if stage.alone:
            return workflow.cores if workflow.local_exec and workflow.cores else stage.threads
        if not stage.measured:
            return self.compute.threads if "{threads}" in stage.command else 1
        gpus = self.needs.gpus(rule)

        def threads(wildcards: Any) -> int:
            if not self.compute.gpus:
                return self.compute.threads
            own = self.compute.threads * max(1, gpus(wildcards) // self.compute.gpus)
            limit = limit_of_this_machine(workflow, "gpu")
            if not limit:
                return own
            return max(own, workflow.cores * min(gpus(wildcards), limit) // limit)

        return threads

    def priority(self, rule: str) -> Any:
        """Return a rule's priority: what every cell waits for first, then what takes longest, so that no core idles."""
        if rule == "pretrain_language_model":
            return lambda w: FIRST + min(FIRST, self.experiment.n_params_estimate(w.size) // 1000)
        if self.stages[rule].first:
            return FIRST
        return (lambda w: self._cost_rank[name_of(plain_wildcards(w))]) if rule in TRAIN else 0

    @cached_property
    def _cost_rank(self) -> dict[str, int]:
        """Rank of each training by estimated cost; the cheapest is 1."""
        trainings = self.experiment.trainings
        by_cost = sorted(trainings, key=lambda name: relative_cost(self.experiment, trainings[name]))
        return {name: place for place, name in enumerate(by_cost, start=1)}

    # The command.

    def command(self, rule: str) -> str:
        """Return the shell command of a rule, with placeholders for Snakemake to fill in."""
        stage = self.stages[self.rule_of(rule)]
        named = _Placeholders(stage, self.results)
        recorded = [f"{name}={{input.{name}:q}}" for name in stage.reads if name not in stage.many]
        parts = [
            "python -m vlmlaw",
            f" --from {' '.join(recorded)}" if recorded else "",
            f" --read {' '.join(f'{{input.{name}:q}}' for name in stage.theirs)}" if stage.theirs else "",
            _made(stage),
            MEASURED if stage.measured else " --gpus {resources.gpu:q}" if "gpu" in stage.resources else "",
            RECORDED,  # last before the verb, because its options take one value each
            " " + stage.command.format_map(named),
            " 2>&1 | tee {log:q}" if stage.shown else " > {log:q} 2>&1",
        ]
        return "".join(parts)

    def rule_of(self, name: str) -> str:
        """Return the rule of the table for a name in Snakemake, which has a prefix where this workflow is a module."""
        return name if name in self.stages else next(rule for rule in self.stages if name.endswith(f"_{rule}"))

    # Targets.

    @property
    def data_files(self) -> list[str]:
        """The files that must exist before any model is trained."""
        experiment = self.experiment
        splits = [split for split in experiment.splits if split != "development"]
        text = [] if experiment.pretrained else ["text"]
        reads = [Read("tokenize", {"split": split}) for split in [*splits, *text]]
        pictures = "cache_features" if experiment.caches_features else self.pictures_rule
        reads += [Read(pictures, {"split": split}) for split in splits]
        return [file for read in reads for file in self.files(read)]

    @property
    def pictures_rule(self) -> str:
        return Reads(self.experiment, self.design).pictures_rule

    @property
    def model_files(self) -> list[str]:
        """A file of the tower and of each language model."""
        if self.experiment.pretrained:
            sizes = self.experiment.sizes
            reads = [Read("fetch_encoder"), *(Read("fetch_language_model", {"size": size}) for size in sizes)]
        else:
            reads = [Read("train_encoder"), *Reads(self.experiment, None).pretrainings()]
        return [self.files(read)[0] for read in reads]

    @property
    def targets(self) -> list[str]:
        """The page, and what is missing of any cell, so that what was deleted by hand is made again beside the page."""
        reads = Reads(self.experiment, self.design)
        weights = reads.trainings(f"model/{MODEL[0]}")({})
        files = [file for read in weights for file in self.files(read)]
        page, headline = (self.files(Read(rule))[0] for rule in ("write_report", "write_headline"))
        return [page, headline, *_missing([*files, *self.evaluations]), *self.cards]

    @property
    def evaluations(self) -> list[str]:
        return self.inputs("collect_measurements")["evaluations"]({})

    @property
    def cards(self) -> list[str]:
        """Any card, as one job writes them all, and those that are missing."""
        first, *others = self.files(Read("write_cards"))
        return [first, *_missing(others)]

    @property
    def law_files(self) -> list[str]:
        """The law, and the study's summary in a few numbers."""
        return [self.files(Read("fit_law"))[0], self.files(Read("write_headline"))[0]]

    def failed(self) -> str:
        """Describe the cells that have failed; "" if none has."""
        from vlmlaw.workflow.status import failed_cells

        return failed_cells(self.experiment)

    @property
    def caches(self) -> list[str]:
        """Folders of results that are neither recorded nor shared, and made again when a job needs them."""
        folders = {stage.folder.split("/")[0] for stage in self.stages.values() if not stage.lasts}
        return [f"{self.results}/{folder}" for folder in sorted(folders)]

    @cached_property
    def budget(self) -> str:
        """The estimate of GPU-hours in words; "" for an experiment that takes none."""
        if not (self.experiment.pretrained and self.compute.gpus):
            return ""
        from vlmlaw.experiment.budget import describe, utilisation_of

        learned = str(utilisation_of(self.experiment))
        asked = ("budget", code_version("vlmlaw.experiment.budget"), to_json(self.experiment), learned)
        answer = recall(*asked)
        if answer is None:
            answer = describe(self.experiment)
            remember(answer, *asked)
        return answer


class _Placeholders(dict):
    """Maps the placeholders of a row's command to Snakemake's, quoted for the shell."""

    def __init__(self, stage: Stage, results: str):
        super().__init__(threads="{threads:q}", results=shlex.quote(results).replace("{", "{{").replace("}", "}}"))
        self._stage = stage

    def __missing__(self, name: str) -> str:
        stage, plain = self._stage, name.removesuffix("/")
        if plain == "out":
            return '"$(dirname {output.files[0]:q})"' if name.endswith("/") else "{output.files[0]:q}"
        if plain in stage.reads or plain in stage.theirs:
            # Not `[0]`: a job that need not run gets no caches as inputs, but its command is still filled in.
            return f'"$(dirname {{input.{plain}:q}} | head -n 1)"' if name.endswith("/") else f"{{input.{plain}:q}}"
        if plain in stage.params:
            return f"{{params.{plain}:q}}"
        if plain in stage.resources or plain == "compute":
            return f"{{resources.{plain}:q}}"
        if plain in stage.names:
            return f"{{wildcards.{plain}:q}}"
        raise AssertionError(f"the command of {stage.rule} names {name}, which that stage does not have")


def _made(stage: Stage) -> str:
    names = " ".join(f"'{name}'" for name in stage.made).replace("{", "'{wildcards.").replace("}", ":q}'")
    return f" --made {names}" if names else ""


def _missing(files: Iterable[str]) -> list[str]:
    """Return the files that are not there.

    Snakemake gets to all jobs by way of the page, and goes through all inputs of a job for each of its outputs that is
    asked for: with 2,800 cards for 2,800 cells that took longer than all else.
    """
    return [file for file in files if not Path(file).exists()]


def _of_wildcards(parts: Mapping[str, Callable[[Any], Any]]) -> dict[str, Callable[[Any], Any]]:
    """Wrap the functions so that Snakemake can call them with its own kind of wildcards."""

    def asked(part: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda wildcards: part(plain_wildcards(wildcards))

    return {name: asked(part) for name, part in parts.items()}


def plain_wildcards(wildcards: Any) -> dict[str, str]:
    """Return Snakemake's wildcards as a dictionary."""
    return dict(wildcards.items())


def use_this_interpreter() -> None:
    """Have jobs run `python -m vlmlaw` with the interpreter and the package that plan them."""
    source = str(Path(__file__).resolve().parents[2])
    paths = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": source}
    for name, first in paths.items():
        rest = [part for part in os.environ.get(name, "").split(os.pathsep) if part and part != first]
        os.environ[name] = os.pathsep.join([first, *rest])
