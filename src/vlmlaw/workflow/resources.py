"""Requests of jobs to a cluster: memory, minutes and GPUs, from the cost of a cell and the ends of earlier attempts.

With pretrained models the FLOPs of a training are those of the estimate of GPU-hours (experiment/budget.py). In the
miniature, and for jobs that only read, a forward pass of N parameters over T tokens takes 2NT (Kaplan et al. 2020,
arXiv 2001.08361, 2.1). Requests are generous: with too much a job waits a little longer in the queue, with too little
its work is lost. A request that was not enough is doubled for the next attempt, up to the experiment's limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vlmlaw.data.settings import DataSettings
from vlmlaw.experiment import budget, memory
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.training.settings import CellSettings, OptimizerSettings, PatchSettings
from vlmlaw.workflow.attempts import KILLED, MEMORY, TIME, failures
from vlmlaw.workflow.stage import ALIGN, TRAIN, Stage, name_of
from vlmlaw.workflow.stages import stages_of

BASE_MB = 1500  # measured: 450 MB for Python, torch, transformers and a small dataset, 250 MB for Snakemake
BASE_MINUTES = 10  # to start, read the data and write the result
SLACK = 3  # requested over estimated time, for slow nodes and shared file systems
CPU_FLOPS = 5e9  # per second and thread, on matrices as small as the miniature's
TOKENIZING_MB = 2000
TRAINING_BYTES = 16  # of a parameter with its gradient and Adam's two moments, in float32
HOST_BYTES = 4  # of a parameter in each process while weights are read; the first process writes as many again
RECORD_BYTES = 5_000  # of a LLaVA record in each process: 250 tokens of 10 bytes, twice while they are measured
TOKENIZING_BYTES = 15_000  # of a record: its text (5,000 as counted, for 1,100 of JSON), its chat and its tokens
USABLE_SHARE = 0.8  # of a GPU's memory for weights and their training state; the rest is for activations
GROWTH = 2
# Rules that run in one process, with more than one GPU only if the weights do not fit into one.
READERS = ("evaluate_cell", "evaluate_benchmark", "evaluate_by_lmms_eval", "cache_features")
UNCOUNTED_TEST = 10_000  # assumed records of a test file whose `records` are not given

Request = Callable[..., int]  # a function of wildcards and attempt, as Snakemake calls it


@dataclass(frozen=True)
class Load:
    """What a job computes and holds: FLOPs, parameters of `bytes_per_param` each, and bytes of data."""

    n_params: float
    flops: float
    bytes_per_param: int
    data_bytes: int = 0
    least_gpus: int = 1  # that it needs by the estimate of memory


class Needs:
    """Requests of each expensive rule, as functions of wildcards for Snakemake."""

    def __init__(self, experiment: Experiment, stages: Mapping[str, Stage] | None = None):
        self.experiment, self.compute = experiment, experiment.compute
        self._stages = stages or stages_of(experiment)

    def memory_mb(self, rule: str, *, least: int = 0) -> Request:
        """Request host memory; double it for each attempt that ran out of it, or was killed for no known cause."""

        def request(wildcards: Any, attempt: int = 1) -> int:
            load = self._load(rule, wildcards)
            n_processes = self._processes(rule, load)
            # Each process loads the whole model before it keeps its part; the first one also writes it.
            per_param = HOST_BYTES * (n_processes + 1) + (0 if self.compute.gpus else load.bytes_per_param)
            megabytes = BASE_MB * n_processes + (per_param * load.n_params + load.data_bytes * n_processes) / 1e6
            grown = self._grown(rule, wildcards, attempt, causes=(MEMORY, KILLED))
            return min(self.compute.max_memory_mb, grown * max(least, math.ceil(megabytes)))

        return request

    def tokenizing_memory_mb(self, wildcards: Any, attempt: int = 1) -> int:
        """Return the host memory to tokenize a split's conversations; it doubles with each attempt."""
        data = self.experiment.data
        n_records = 0 if isinstance(data, DataSettings) else self._n_images(wildcards.split)
        megabytes = TOKENIZING_MB + TOKENIZING_BYTES * n_records // 10**6
        return self.doubling(megabytes, most=self.compute.max_memory_mb)(wildcards, attempt)

    def minutes(self, rule: str, *, least: int = 0) -> Request:
        """Request run time; double it for each attempt that ran out of it."""

        def request(wildcards: Any, attempt: int = 1) -> int:
            load = self._load(rule, wildcards)
            seconds = SLACK * load.flops / self.flops_per_second(self._gpus(rule, load))
            grown = self._grown(rule, wildcards, attempt, causes=(TIME,))
            return min(self.compute.max_minutes, grown * max(least, math.ceil(BASE_MINUTES + seconds / 60)))

        return request

    @staticmethod
    def doubling(amount: int, *, most: int) -> Request:
        """Request an amount that doubles with each attempt up to `most`, for a rule that records no attempts."""
        return lambda wildcards, attempt=1: min(most, amount * GROWTH ** (attempt - 1))

    def gpus(self, rule: str) -> Request:
        """Request the experiment's GPUs, or more if the weights with their training state fill more."""
        return lambda wildcards, attempt=1: self._gpus(rule, self._load(rule, wildcards))

    def _gpus(self, rule: str, load: Load) -> int:
        if not self.compute.gpus:
            return 0
        least = 1 if rule in READERS else max(self.compute.gpus, load.least_gpus)
        filled = load.n_params * load.bytes_per_param / (USABLE_SHARE * self.compute.gpu_memory_gb * 1e9)
        return max(least, 2 ** math.ceil(math.log2(max(1.0, filled))))

    def _processes(self, rule: str, load: Load) -> int:
        if rule not in (*TRAIN, *ALIGN):
            return 1
        return self.compute.processes or max(self._gpus(rule, load), 1)

    def flops_per_second(self, gpus: int) -> float:
        """Return the FLOPs per second that a job sustains."""
        if gpus:
            return gpus * self.compute.peak_tflops * 1e12 * self._utilisation
        return self.compute.threads * CPU_FLOPS

    def cell_seconds(self, cell: CellSettings) -> float:
        """Estimate the seconds of a cell's training and evaluation together, without slack."""
        loads = {"train_cell": self._training(cell), "evaluate_cell": self._evaluation(cell)}
        return sum(load.flops / self.flops_per_second(self._gpus(rule, load)) for rule, load in loads.items())

    def cell_gpus(self, cell: CellSettings) -> int:
        """Return the GPUs of a cell's training."""
        return self._gpus("train_cell", self._training(cell))

    # Loads.

    def _load(self, rule: str, wildcards: Any) -> Load:
        experiment = self.experiment
        if rule == "pretrain_language_model":
            size: Any = experiment.size_settings(wildcards.size)
            return _training_load(experiment.n_params_estimate(wildcards.size), self._n_text_tokens, size.pretraining)
        if rule == "train_encoder":
            encoder: Any = experiment.encoder_settings
            if isinstance(encoder, PatchSettings):
                return Load(0, 0, bytes_per_param=4)
            return _training_load(self._n_params_tower, experiment.grid_side**2, encoder.training)
        if rule == "cache_features":
            flops = 2 * self._n_params_tower * experiment.grid_side**2 * self._n_images(wildcards.split)
            return Load(self._n_params_tower, flops, bytes_per_param=4)
        name = name_of(dict(wildcards.items()))
        if rule in ALIGN:
            return self._training(experiment.alignments[name])
        if rule in TRAIN:
            return self._training(experiment.training_settings_of(name))
        return self._evaluation(experiment.cell_settings(name))

    def _training(self, cell: CellSettings) -> Load:
        """Return the load of a cell's training or of its stage 1, whose frozen LLM gradients pass all the same."""
        n_params, split = (
            self.experiment.n_params_estimate(cell.size),
            "train" if cell.trains_language_model else "align",
        )
        load = _training_load(n_params, self._n_tokens(cell), cell.training, self._n_images(split))
        if not self.experiment.pretrained:
            return load
        gpus = self._fits[split][cell.name].gpus if self.compute.gpus else 1
        return replace(load, flops=self._estimated[split][cell.name], least_gpus=gpus)

    def _evaluation(self, cell: CellSettings) -> Load:
        n_params, n_tokens = self.experiment.n_params_estimate(cell.size), self._n_tokens(cell)
        return Load(n_params, 2 * n_params * n_tokens * self._n_images("test"), bytes_per_param=4)

    @cached_property
    def _utilisation(self) -> float:
        """Share of the peak FLOPs that finished trainings reached, or that the experiment file assumes."""
        return budget.utilisation_of(self.experiment) if self.experiment.pretrained else self.compute.utilisation

    @cached_property
    def _estimated(self) -> Mapping[str, Mapping[str, float]]:
        return budget.training_flops(self.experiment)

    @cached_property
    def _fits(self) -> Mapping[str, Mapping[str, memory.Fit]]:
        return memory.fits_of(self.experiment)

    @property
    def _n_params_tower(self) -> int:
        return 12 * self.experiment.tower.num_hidden_layers * self.experiment.tower.hidden_size**2

    def _n_images(self, split: str) -> int:
        """Return the most images that a job can read of a split: one for each record."""
        data = self.experiment.data
        if isinstance(data, DataSettings):
            return data.images[split]
        if split == "test":
            return sum(file.records or UNCOUNTED_TEST for file in data.test.values())
        return data.whole(split).records or budget.UNCOUNTED

    def _n_tokens(self, cell: CellSettings) -> int:
        """Return the tokens of a record; a training for every V counts with all patches."""
        return (cell.n_visual_tokens or self.experiment.grid_side**2) + self._n_text_tokens

    @property
    def _n_text_tokens(self) -> int:
        data = self.experiment.data
        return 8 * data.questions_per_image if isinstance(data, DataSettings) else data.whole("train").text_tokens

    def _grown(self, rule: str, wildcards: Any, attempt: int, *, causes: tuple[str, ...]) -> int:
        """Return a request's factor, doubled for each attempt that ended so, or before it could record anything."""
        ends = failures(self._stages[rule].log_of(self.experiment.results, dict(wildcards.items())))
        unrecorded = max(0, attempt - 1 - len(ends))
        return GROWTH ** (unrecorded + sum(end in causes for end in ends))


def _training_load(n_params: float, n_tokens: int, plan: OptimizerSettings, n_records: int = 0) -> Load:
    n_seen = plan.steps_of(n_records) * plan.batch_size
    return Load(
        n_params, 6 * n_params * n_tokens * n_seen, bytes_per_param=TRAINING_BYTES, data_bytes=RECORD_BYTES * n_records
    )
