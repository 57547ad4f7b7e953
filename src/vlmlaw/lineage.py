"""What each result descends from, as one hash: settings and code of every stage before it.

Snakemake asks after a job's own settings and its input files. Where an input is gone (its job was killed, a cache was
not pulled) it asks nothing, and a result of the old settings would pass for one of the new. So each job also carries
the hash of all that stands behind its inputs.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, TypeVar

from vlmlaw.experiment import Experiment
from vlmlaw.names import CELL_KEYS, cell_name
from vlmlaw.report import described, templates_version
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.settings import to_json

FIT = ("vlmlaw.laws.table:read_measurements", "vlmlaw.laws.analysis:analyse")
BY_METRIC = ("vlmlaw.answer:evaluate_benchmark",)
BY_LMMS_EVAL = ("vlmlaw.lmms:run_lmms_eval", "vlmlaw.lmms_model:VlmlawModel")
F = TypeVar("F", bound=Callable[..., str])


def _asked_once(method: F) -> F:
    """Keep a method's answer for each of its arguments in the object: thousands of cells share what is behind them."""

    @wraps(method)
    def answer(self: Any, *args: str, **named: str) -> str:
        answers, question = vars(self).setdefault("_answers", {}), (method.__name__, args, *sorted(named.items()))
        if question not in answers:
            answers[question] = method(self, *args, **named)
        return answers[question]

    return answer  # type: ignore[return-value]  # the same signature


class Lineage:
    """The hash behind each rule's inputs, by the rule's name; wildcards are the arguments."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment

    def tokenize(self, *, split: str) -> str:
        return _hash(self._text if split == "text" else self._pictures(split), self._tokenizer)

    @cached_property
    def train_encoder(self) -> str:
        return _hash(self._pictures("train"), self._pictures("development"))

    def cache_features(self, *, split: str) -> str:
        return _hash(self._encoder, self._pictures(split))

    def pretrain_language_model(self, **_: Any) -> str:
        return _hash(self._tokens("text"), self._tokenizer)

    def fetch_language_model(self, **_: Any) -> str:
        return self._tokenizer

    def align_cell(self, *, size: str, **_: Any) -> str:
        return self._before_training("align", size=size)

    def train_cell(self, *, size: str, compressor: str, seed: str, n_visual_tokens: str | None = None) -> str:
        """Of a cell's training, or without a V of one that serves any."""
        return self._before_cell(self._training(cell_name(size, _number(n_visual_tokens), compressor, int(seed))))

    def _training(self, name: str) -> Any:
        return self.experiment.trainings.get(name) or self.experiment.cell_settings(name)

    def _before_cell(self, training: Any) -> str:
        """What a training starts from, its stage 1 included."""
        before, stage_1 = self._before_training("train", size=training.size), self.experiment.stage_1_of(training)
        if stage_1 is None:
            return before
        code = code_version("vlmlaw.train:align_cell", compressor=training.compressor)
        return _hash(before, to_json(stage_1), code, self.align_cell(size=training.size))

    @_asked_once
    def _before_training(self, split: str, *, size: str) -> str:
        """Language model, tower, and what is learned from."""
        settings = to_json(self.experiment.size_settings(size))
        if self.experiment.pretrained:
            language_model = _hash(settings, code_version("vlmlaw.hub:fetch_language_model"), self._tokenizer)
        else:
            language_model = _hash(
                settings, code_version("vlmlaw.language_model:pretrain"), self.pretrain_language_model()
            )
        return _hash(language_model, self._encoder, self._tokens(split), self._images(split))

    @_asked_once
    def evaluate_cell(self, **cell: str) -> str:
        return _hash(self._trained(**cell), self._pictures("test"), self._tokens("test"), self._images("test"))

    def evaluate_benchmark(self, *, benchmark: str, **cell: str) -> str:
        images = next(own.images for own in self.experiment.evaluation.benchmarks if own.name == benchmark)
        return _hash(self._trained(**cell), images or "")

    @_asked_once
    def _trained(self, *, size: str, n_visual_tokens: str, compressor: str, seed: str) -> str:
        """A cell's model: the training whose weights it has, and which cell it is evaluated as."""
        cell = self.experiment.cell_settings(cell_name(size, int(n_visual_tokens), compressor, int(seed)))
        training = self.experiment.training_of(cell)
        code = code_version("vlmlaw.train:train_cell", compressor=training.compressor)
        return _hash(to_json(training), to_json(cell.measured), code, self._before_cell(training))

    @cached_property
    def collect_measurements(self) -> str:
        settings = [to_json(self.experiment.evaluation), self.experiment.grid.held_out or ""]
        evaluations = []
        for name, cell in self.experiment.cells.items():
            wildcards = {key: str(getattr(cell, key)) for key in CELL_KEYS}
            evaluations.append(name)
            if self.experiment.has_test:
                code = code_version("vlmlaw.evaluate:evaluate_cell", compressor=cell.compressor)
                evaluations += [self.evaluate_cell(**wildcards), code]
            evaluations.append(self.write_card(**wildcards))
        return _hash(*settings, *evaluations)

    @_asked_once
    def write_card(self, **cell: str) -> str:
        """A cell on all benchmarks."""
        evaluations = []
        for benchmark, own in self.experiment.benchmarks.items():
            roots = BY_METRIC if own.metric else BY_LMMS_EVAL
            code = code_version(*roots, compressor=cell["compressor"])
            evaluations += [to_json(own), self.evaluate_benchmark(benchmark=benchmark, **cell), code]
        return _hash(*evaluations)

    @cached_property
    def fit_law(self) -> str:
        return _hash(code_version("vlmlaw.measurements:collect"), self.collect_measurements)

    @cached_property
    def write_headline(self) -> str:
        return _hash(to_json(self.experiment.law), code_version(*FIT), self.fit_law)

    @cached_property
    def write_report(self) -> str:
        return _hash(self.write_headline, described(self.experiment), templates_version())

    # A result with all that it was made from.

    @_asked_once
    def _pictures(self, split: str) -> str:
        made = "vlmlaw.data.llava:prepare_split" if self.experiment.pretrained else "vlmlaw.data.miniature:draw_split"
        return _hash(to_json(self.experiment.picture_settings(split)), code_version(made))

    @cached_property
    def _text(self) -> str:
        return _hash(to_json(self.experiment.text_settings), code_version("vlmlaw.data.miniature:write_corpus"))

    @cached_property
    def _tokenizer(self) -> str:
        if self.experiment.pretrained:
            return _hash(to_json(self.experiment.tokenizer_settings), code_version("vlmlaw.tokenizers:take_tokenizer"))
        return code_version("vlmlaw.data.miniature:write_tokenizer")

    @_asked_once
    def _tokens(self, split: str) -> str:
        settings = to_json(self.experiment.token_settings("train" if split == "text" else split))
        return _hash(settings, code_version("vlmlaw.token_table:tokenize_dataset"), self.tokenize(split=split))

    @cached_property
    def _encoder(self) -> str:
        settings = to_json(self.experiment.encoder_settings)
        if self.experiment.pretrained:
            return _hash(settings, code_version("vlmlaw.hub:fetch_vision"))
        return _hash(settings, code_version("vlmlaw.encoder:train_encoder"), self.train_encoder)

    @_asked_once
    def _images(self, split: str) -> str:
        """Features of whatever layers (which of them a cell reads stands in its settings), or the images themselves."""
        if not self.experiment.caches_features:
            return self._pictures(split)
        return _hash(code_version("vlmlaw.images:cache_features"), self.cache_features(split=split))


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
