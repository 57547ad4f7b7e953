"""The experiment as a workflow engine asks for it: settings as text for a job's wildcards, file lists, priorities.

A rule's `params:` take these methods, so that the engine's record of a job holds exactly what its result depends on.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmlaw.experiment import Experiment
from vlmlaw.lineage import Lineage
from vlmlaw.memory import recall, remember
from vlmlaw.names import CELL_KEYS, RULE_OF_RUNNER, cell_name
from vlmlaw.resources import Needs
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.settings import as_data, to_json
from vlmlaw.stage_settings import CellSettings, LlavaData, ModelSettings, SizeSettings, SplitSettings, VisionSection

DATASET_FILES = ("index.npz", "conversations.json", "images-00000.tar")


class Plan:
    """What rules need of one experiment. Methods named `..._of` take a job's wildcards."""

    FIRST = 1_000_000  # the priority of what every cell waits for

    def __init__(self, config: Mapping[str, Any], *, source: str = "experiment"):
        self.experiment = Experiment.from_mapping(config, source=source)
        self.results = self.experiment.results
        self.pretrained = self.experiment.pretrained
        self.splits = self.experiment.splits
        self.sizes = list(self.experiment.sizes)
        self.cells = list(self.experiment.cells)
        self.trainings = list(self.experiment.trainings)
        self.compressors = sorted({cell.compressor for cell in self._every.values()})
        self.benchmarks = list(self.experiment.benchmarks)
        self.layers = self.experiment.cached_layers
        self.compute = self.experiment.compute
        self.lineage = Lineage(self.experiment)
        self.needs = Needs(self.experiment)

    # Settings.

    def pictures_of(self, wildcards: Any) -> str:
        return to_json(self.experiment.picture_settings(wildcards.split))

    @cached_property
    def text(self) -> str:
        return to_json(self.experiment.text_settings)

    def tokens_of(self, wildcards: Any) -> str:
        return to_json(self.experiment.token_settings(wildcards.split))

    @cached_property
    def tokenizer(self) -> str:
        return to_json(self.experiment.tokenizer_settings)

    @cached_property
    def encoder(self) -> str:
        return to_json(self.experiment.encoder_settings)

    def language_model_of(self, wildcards: Any) -> str:
        return to_json(self.experiment.size_settings(wildcards.size))

    def cell_of(self, wildcards: Any) -> str:
        return to_json(self._cell(wildcards))

    def measured_of(self, wildcards: Any) -> str:
        """Which cell an evaluation is of; its weights may be those of many."""
        return to_json(self._cell(wildcards).measured)

    def alignment_of(self, wildcards: Any) -> str:
        return to_json(self._cell(wildcards, among=self.experiment.alignments))

    @cached_property
    def _stages(self) -> Mapping[str, CellSettings]:
        """Cells, trainings and stages 1 by name; one that several share may have a name that no cell has."""
        return {**self.experiment.alignments, **self._every}

    @cached_property
    def evaluation(self) -> str:
        return to_json(self.experiment.evaluation)

    def benchmark_of(self, wildcards: Any) -> str:
        return to_json(self.experiment.benchmarks[wildcards.benchmark])

    @cached_property
    def law(self) -> str:
        return to_json(self.experiment.law)

    @cached_property
    def report(self) -> str:
        return to_json(self.experiment.report)

    @property
    def held_out(self) -> str:
        return self.experiment.grid.held_out or ""

    # What changes no result and therefore stands among a rule's resources.

    def how_to_compute(self, rule: str) -> Any:
        """A function of wildcards: the experiment's `compute`, with as many GPUs as the job asks for."""
        gpus = self.needs.gpus(rule)
        return lambda wildcards: to_json(replace(self.compute, gpus=gpus(wildcards)))

    @property
    def encoder_checkpoint_seconds(self) -> int:
        section = self.experiment.vision
        assert isinstance(section, VisionSection)
        return round(section.training.checkpoint_seconds)

    def pretraining_checkpoint_seconds(self, wildcards: Any) -> int:
        settings = self.experiment.size_settings(wildcards.size)
        assert isinstance(settings, SizeSettings)
        return round(settings.pretraining.checkpoint_seconds)

    def training_checkpoint_seconds(self, wildcards: Any) -> int:
        return round(self._cell(wildcards).training.checkpoint_seconds)

    def alignment_checkpoint_seconds(self, wildcards: Any) -> int:
        stage = self._cell(wildcards, among=self.experiment.alignments)
        return round(stage.training.checkpoint_seconds)

    @cached_property
    def budget(self) -> str:
        """The estimate of GPU-hours, in words; empty for what takes none."""
        if not (self.pretrained and self.compute.gpus):
            return ""
        asked = ("budget", code_version("vlmlaw.budget"), to_json(self.experiment))
        answer = recall(*asked)
        if answer is None:
            from vlmlaw.budget import describe

            answer = describe(self.experiment)
            remember(answer, *asked)
        return answer

    def threads_of(self, rule: str, workflow: Any) -> Any:
        """A function of wildcards: a job's threads, more where it gets more GPUs than the experiment's.

        Jobs that share one machine's GPUs divide its cores.
        """
        gpus = self.needs.gpus(rule)

        def threads(wildcards: Any) -> int:
            if not self.compute.gpus:
                return self.compute.threads
            own = self.compute.threads * max(1, gpus(wildcards) // self.compute.gpus)
            limit = workflow.global_resources.get("gpu") if workflow.local_exec else None
            if limit is None or not limit.value:
                return own
            return max(own, workflow.cores * min(gpus(wildcards), limit.value) // limit.value)

        return threads

    # Files.

    def images_of(self, split: str) -> Any:
        """An input function: what a cell sees of a split's images, cached features or the images themselves."""

        def files(wildcards: Any) -> list[str]:
            if not self.experiment.caches_features:
                return [f"{self.results}/data/{split}/{name}" for name in DATASET_FILES]
            cell = self._cell(wildcards, among=self._stages)
            return [f"{self.results}/features/{split}/layer{layer}.npy" for layer in cell.feature_layers]

        return files

    def aligned_of(self, wildcards: Any) -> list[str]:
        """What a cell's training starts from beside the LLM: stage 1's weights, where there is a stage 1."""
        stage = self.experiment.stage_1_of(self._cell(wildcards))
        return [f"{self.results}/cells/{stage.name}/stage_1/connector.safetensors"] if stage else []

    @property
    def data_files(self) -> list[str]:
        """What must be there before any model is trained."""
        splits = [split for split in self.splits if split != "development"]
        tokens = [f"{self.results}/tokens/{split}.npz" for split in splits]
        if not self.experiment.pretrained:
            tokens.append(f"{self.results}/tokens/text.npz")
        if not self.experiment.caches_features:
            return tokens + [f"{self.results}/data/{split}/images-00000.tar" for split in splits]
        return tokens + [
            f"{self.results}/features/{split}/layer{layer}.npy" for split in splits for layer in self.layers
        ]

    def model_of(self, wildcards: Any) -> str:
        """The folder of the training whose weights a cell uses."""
        return f"{self.results}/cells/{self.experiment.training_of(self._cell(wildcards)).name}"

    @property
    def training_accounts(self) -> list[str]:
        """training.json of everything that is trained before the cells."""
        if self.experiment.pretrained:
            return [f"{self.results}/cells/{name}/stage_1/training.json" for name in self.experiment.alignments]
        language_models = [f"{self.results}/language_models/{size}/training.json" for size in self.sizes]
        return [f"{self.results}/encoder/training.json", *language_models]

    def conversations_of(self, wildcards: Any) -> list[str]:
        """The files of conversations of a split that lie on this machine."""
        settings = self.experiment.picture_settings(wildcards.split)
        assert isinstance(settings, SplitSettings)
        return [file.conversations for file in settings.files.values() if not file.repository]

    def local_files_of(self, settings: Any) -> list[str]:
        """The files of a model that lies in a folder here; none for a model of the hub."""
        assert isinstance(settings, ModelSettings)
        folder = Path(settings.source)
        kinds = (".json", ".safetensors", ".jinja", ".txt", ".model")
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return [str(file) for file in files if file.suffix in kinds]

    def language_model_files_of(self, wildcards: Any) -> list[str]:
        return self.local_files_of(self.experiment.size_settings(wildcards.size))

    @cached_property
    def evaluations(self) -> list[str]:
        """Every evaluation of every cell: on the test split, and on each benchmark."""
        return [f"{self.results}/cells/{cell}/{name}" for cell in self.cells for name in self.experiment.evaluations]

    @property
    def cards(self) -> list[str]:
        """Cards that no evaluation on the test split writes, since there is none."""
        return [] if self.experiment.has_test else [f"{self.results}/cells/{cell}/README.md" for cell in self.cells]

    @property
    def samples(self) -> list[str]:
        """The files of the pictures and questions that the report shows some of."""
        return [f"{self.results}/data/test/{name}" for name in DATASET_FILES] if self.experiment.has_test else []

    def benchmarks_by(self, runner: str) -> list[str]:
        """The names of the benchmarks that the project itself or lmms-eval runs."""
        return [section.name for section in self.experiment.evaluation.benchmarks if section.by == runner]

    def questions_of(self, wildcards: Any) -> str:
        return self._benchmark_section(wildcards).questions

    def images_of_benchmark(self, wildcards: Any) -> str:
        """The folder of its images: by default that of its questions."""
        section = self._benchmark_section(wildcards)
        return section.images or str(Path(section.questions).parent)

    def _benchmark_section(self, wildcards: Any) -> Any:
        return next(b for b in self.experiment.evaluation.benchmarks if b.name == wildcards.benchmark)

    @property
    def caches(self) -> list[str]:
        """Folders of what is neither recorded nor shared, and made again where a job needs it."""
        return [f"{self.results}/{name}" for name in ("data", "tokens", "features")]

    def behind(self, rule: str, wildcards: Any) -> list[tuple[str, dict[str, str]]]:
        """The jobs, rule and wildcards, whose lasting results a job reads; caches are not among them."""
        if rule in ("train_cell", "train_elastic", "align_cell", "align_elastic"):
            return self._behind_training(rule, wildcards)
        if rule in ("evaluate_cell", *RULE_OF_RUNNER.values()):
            training = self.experiment.training_of(self._cell(wildcards))
            return [("train_cell" if training.n_visual_tokens else "train_elastic", self._wildcards_of(training))]
        if rule == "collect_measurements":
            cells = [self._wildcards_of(cell) for cell in self.experiment.cells.values()]
            tested: list[tuple[str, dict[str, str]]] = [("evaluate_cell", {})] if self.experiment.has_test else []
            return [(rule, cell | own) for cell in cells for rule, own in [*tested, *self._runs]]
        if rule == "write_card":
            return [(runner, {**wildcards} | own) for runner, own in self._runs]
        before = {"fit_law": "collect_measurements", "write_headline": "fit_law", "write_report": "fit_law"}.get(rule)
        return [(before, {})] if before else []

    @property
    def _runs(self) -> list[tuple[str, dict[str, str]]]:
        """The rule that runs each benchmark, and its own wildcard."""
        return [(RULE_OF_RUNNER[b.by], {"benchmark": b.name}) for b in self.experiment.evaluation.benchmarks]

    def _behind_training(self, rule: str, wildcards: Any) -> list[tuple[str, dict[str, str]]]:
        size = {"size": wildcards["size"]}
        if not self.pretrained:
            return [("pretrain_language_model", size), ("train_encoder", {})]
        stage_1 = self.experiment.stage_1_of(self._cell(wildcards)) if rule.startswith("train") else None
        before = "align_cell" if stage_1 and stage_1.n_visual_tokens else "align_elastic"
        aligned = [(before, self._wildcards_of(stage_1))] if stage_1 else []
        return [("fetch_language_model", size), ("fetch_encoder", {}), *aligned]

    @staticmethod
    def _wildcards_of(cell: CellSettings) -> dict[str, str]:
        named = {name: getattr(cell, name) for name in CELL_KEYS}
        return {name: str(value) for name, value in named.items() if value is not None}

    # Order: what takes longest starts first, so that no core idles at the end.

    def cell_priority(self, wildcards: Any) -> int:
        return self._cost_rank[self._cell(wildcards).name]

    def language_model_priority(self, wildcards: Any) -> int:
        return self.FIRST + min(self.FIRST, self.experiment.n_params_estimate(wildcards.size) // 1000)

    @cached_property
    def _cost_rank(self) -> dict[str, int]:
        """Each cell's place by estimated training cost, 1 the cheapest: parameters x tokens of a record x records."""
        data = self.experiment.data
        n_text_tokens = data.train.text_tokens if isinstance(data, LlavaData) else 8 * data.questions_per_image
        n_records = (data.train.records or 1) if isinstance(data, LlavaData) else data.images["train"]

        def cost(name: str) -> float:
            cell = self._every[name]
            n_params = self.experiment.n_params_estimate(cell.size)
            n_seen = cell.training.steps_of(n_records) * cell.training.batch_size
            n_visual_tokens = cell.n_visual_tokens or self.experiment.grid_side**2  # any V: with the most among them
            return n_params * (n_visual_tokens + n_text_tokens) * n_seen

        return {name: place for place, name in enumerate(sorted(self._every, key=cost), start=1)}

    @cached_property
    def _every(self) -> dict[str, Any]:
        """Cells and trainings by name: a training may serve many cells, or none of its own name."""
        return {**self.experiment.cells, **self.experiment.trainings}

    def _cell(self, wildcards: Any, *, among: Mapping[str, Any] | None = None) -> Any:
        """The cell, training or stage 1 that a job's wildcards name."""
        given = dict(wildcards.items())
        n_visual_tokens = int(given["n_visual_tokens"]) if "n_visual_tokens" in given else None
        name = cell_name(given["size"], n_visual_tokens, given["compressor"], int(given["seed"]))
        return (self._every if among is None else among).get(name) or self.experiment.cell_settings(name)

    # Code, and what stands behind the inputs.

    def upstream_of(self, rule: str) -> Any:
        """The hash behind a rule's inputs, or a function of wildcards that returns it."""
        hashed = getattr(self.lineage, rule)
        return (lambda wildcards: hashed(**dict(wildcards.items()))) if callable(hashed) else hashed

    @staticmethod
    def code(*roots: str) -> str:
        return code_version(*roots)

    @staticmethod
    def cell_code(*roots: str) -> Any:
        """A function of wildcards: the code with the cell's own compressor, whatever others there are."""
        return lambda wildcards: code_version(*roots, compressor=wildcards.compressor)

    @cached_property
    def as_json(self) -> str:
        """The whole experiment as JSON. No parameter of a rule: what a job depends on of it is behind its inputs."""
        return json.dumps(as_data(self.experiment))


def use_this_interpreter() -> None:
    """Have jobs run `python -m vlmlaw` with the interpreter and the package that plan them."""
    source = str(Path(__file__).resolve().parents[1])
    paths = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": source}
    for name, first in paths.items():
        rest = [part for part in os.environ.get(name, "").split(os.pathsep) if part and part != first]
        os.environ[name] = os.pathsep.join([first, *rest])
