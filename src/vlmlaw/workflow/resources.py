"""What a job asks a cluster for: memory, minutes, GPUs, from what its cell costs and how earlier attempts ended.

With pretrained models the FLOPs of a training are those of the estimate of GPU-hours (experiment/budget.py); in the
miniature, and for whatever only reads, a forward pass of N parameters over T tokens takes 2NT (Kaplan et al. 2020,
arXiv 2001.08361, 2.1). Requests are generous: too much waits a little longer in a queue, too little is lost. What was
not enough is asked for twofold the next time, up to the experiment's limits.
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

BASE_MB = 1500  # Python, torch, transformers and a small dataset took 450 MB, Snakemake's own processes 250 MB
BASE_MINUTES = 10  # to start, read the data and write the result
SLACK = 3  # requested time over estimated: a slow node, a shared file system
CPU_FLOPS = 5e9  # of a thread, on matrices as small as the miniature's
TOKENIZING_MB = 2000
TRAINING_BYTES = 16  # a parameter with its gradient and Adam's two moments, in float32
HOST_BYTES = 4  # a parameter in each process while weights are read; the first writes as many again
RECORD_BYTES = 5_000  # LLaVA-style, in each process: 250 tokens of 10 bytes, and as much while they are measured
TOKENIZING_BYTES = 15_000  # a record's text (5,000 by count, for 1,100 bytes of JSON), its chat and its tokens
USABLE_SHARE = 0.8  # of a GPU's memory, for weights and their training state; activations have the rest
GROWTH = 2
# By one process; more GPUs only where the weights do not fit into one.
READERS = ("evaluate_cell", "evaluate_benchmark", "evaluate_by_lmms_eval", "cache_features")
UNCOUNTED_TEST = 10_000  # records of a test file that nobody has counted

Request = Callable[..., int]  # of a job's wildcards and attempt, as Snakemake calls it


@dataclass(frozen=True)
class Load:
    """What a job computes: FLOPs, and parameters held with so many bytes each, beside bytes of data."""

    n_params: float
    flops: float
    bytes_per_param: int
    data_bytes: int = 0
    least_gpus: int = 1  # by the estimate of memory


class Needs:
    """Requests of each expensive rule; a method returns the function of wildcards that Snakemake wants."""

    def __init__(self, experiment: Experiment, stages: Mapping[str, Stage] | None = None):
        self.experiment, self.compute = experiment, experiment.compute
        self._stages = stages or stages_of(experiment)

    def memory_mb(self, rule: str, *, least: int = 0) -> Request:
        """Host memory. Doubled for each attempt that ran out of it, or was killed and nobody said why."""

        def request(wildcards: Any, attempt: int = 1) -> int:
            load = self._load(rule, wildcards)
            n_processes = self._processes(rule, load)
            # Each process loads the whole model before it keeps a part of it; the first one writes it.
            per_param = HOST_BYTES * (n_processes + 1) + (0 if self.compute.gpus else load.bytes_per_param)
            megabytes = BASE_MB * n_processes + (per_param * load.n_params + load.data_bytes * n_processes) / 1e6
            grown = self._grown(rule, wildcards, attempt, causes=(MEMORY, KILLED))
            return min(self.compute.max_memory_mb, grown * max(least, math.ceil(megabytes)))

        return request

    def tokenizing_memory_mb(self, wildcards: Any, attempt: int = 1) -> int:
        """Host memory to turn a split's conversations into tokens; twice as much with each attempt."""
        data = self.experiment.data
        n_records = 0 if isinstance(data, DataSettings) else self._n_images(wildcards.split)
        megabytes = TOKENIZING_MB + TOKENIZING_BYTES * n_records // 10**6
        return self.doubling(megabytes, most=self.compute.max_memory_mb)(wildcards, attempt)

    def minutes(self, rule: str, *, least: int = 0) -> Request:
        """Run time. Doubled for each attempt that ran out of it."""

        def request(wildcards: Any, attempt: int = 1) -> int:
            load = self._load(rule, wildcards)
            seconds = SLACK * load.flops / self.flops_per_second(self._gpus(rule, load))
            grown = self._grown(rule, wildcards, attempt, causes=(TIME,))
            return min(self.compute.max_minutes, grown * max(least, math.ceil(BASE_MINUTES + seconds / 60)))

        return request

    @staticmethod
    def doubling(amount: int, *, most: int) -> Request:
        """Request for a rule that records no attempts: twice as much with each, but no more than `most`."""
        return lambda wildcards, attempt=1: min(most, amount * GROWTH ** (attempt - 1))

    def gpus(self, rule: str) -> Request:
        """GPUs: those of the experiment, or as many more as the weights with their training state fill."""
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
        """Sustained by a job."""
        if gpus:
            return gpus * self.compute.peak_tflops * 1e12 * self._utilisation
        return self.compute.threads * CPU_FLOPS

    def cell_seconds(self, cell: CellSettings) -> float:
        """Estimated seconds of a cell's training and evaluation together, without slack."""
        loads = {"train_cell": self._training(cell), "evaluate_cell": self._evaluation(cell)}
        return sum(load.flops / self.flops_per_second(self._gpus(rule, load)) for rule, load in loads.items())

    def cell_gpus(self, cell: CellSettings) -> int:
        """GPUs of a cell's training."""
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
        """Of a cell, or of its stage 1, through whose frozen LLM gradients pass all the same."""
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
        """As finished trainings had it, or as the file assumes."""
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
        """Images that a job reads of a split, at the most: one for each record."""
        data = self.experiment.data
        if isinstance(data, DataSettings):
            return data.images[split]
        if split == "test":
            return sum(file.records or UNCOUNTED_TEST for file in data.test.values())
        return data.whole(split).records or budget.UNCOUNTED

    def _n_tokens(self, cell: CellSettings) -> int:
        """Of a record; a training for any V is counted with all patches."""
        return (cell.n_visual_tokens or self.experiment.grid_side**2) + self._n_text_tokens

    @property
    def _n_text_tokens(self) -> int:
        data = self.experiment.data
        return 8 * data.questions_per_image if isinstance(data, DataSettings) else data.whole("train").text_tokens

    def _grown(self, rule: str, wildcards: Any, attempt: int, *, causes: tuple[str, ...]) -> int:
        """Twofold for each attempt that ended so, or before it could record anything."""
        ends = failures(self._stages[rule].log_of(self.experiment.results, dict(wildcards.items())))
        unrecorded = max(0, attempt - 1 - len(ends))
        return GROWTH ** (unrecorded + sum(end in causes for end in ends))


def _training_load(n_params: float, n_tokens: int, plan: OptimizerSettings, n_records: int = 0) -> Load:
    n_seen = plan.steps_of(n_records) * plan.batch_size
    return Load(
        n_params, 6 * n_params * n_tokens * n_seen, bytes_per_param=TRAINING_BYTES, data_bytes=RECORD_BYTES * n_records
    )
