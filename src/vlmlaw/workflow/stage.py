"""The description of a stage, and the names of its jobs: a job is a rule with its wildcards filled in."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmlaw.training.settings import CellSettings
from vlmlaw.vlm.cell_name import CELL_KEYS, cell_name

Wildcards = Mapping[str, str]

CELL = "{size}_v{n_visual_tokens}_{compressor}_s{seed}"
ELASTIC = "{size}_{compressor}_s{seed}"  # a training whose weights serve every V
MODEL = ("model.safetensors", "config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LANGUAGE_MODEL = (*MODEL, "generation_config.json", *TOKENIZER)
CELL_MODEL = (*LANGUAGE_MODEL, "processor_config.json", "vlmlaw_cell.py")
PICTURES = ("index.npz", "conversations.json", "images-00000.tar")
TRAIN, ALIGN = ("train_cell", "train_elastic"), ("align_cell", "align_elastic")
RULE_OF_RUNNER = {"vlmlaw": "evaluate_benchmark", "lmms-eval": "evaluate_by_lmms_eval"}  # who runs a benchmark
PROPOSE = "propose_cells"  # the rule of a design's round, a checkpoint in Snakemake's sense
FETCHED = "model.json"  # pins a pretrained model, whose weights are not copied into the results
OF_A_MODEL = (".json", ".safetensors", ".jinja", ".txt", ".model")  # suffixes of the files of a model in a local folder


@dataclass(frozen=True)
class Read:
    """What a job reads of another job: the named files or, without names, all that it makes."""

    rule: str
    wildcards: Wildcards = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def job(self) -> tuple[str, Wildcards]:
        return self.rule, self.wildcards


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A row of the table; paths are below the results folder, with wildcards in braces.

    `command` is the verb with its options, in which `{x}` stands for the input, parameter, resource or wildcard x,
    `{x/}` for the folder of an input's first file, `{out}` for the first output file and `{out/}` for its folder.
    """

    rule: str
    message: str
    command: str
    code: tuple[str, ...]  # roots of the fingerprint: the functions that make the result
    folder: str
    files: tuple[str, ...]
    record: str = "record.json"
    made: tuple[str, ...] = ()  # the files of the folder that the record lists; (): what `--out` names
    reads: Mapping[str, Callable[[Wildcards], Iterable[Read]]] = field(default_factory=dict)
    many: tuple[str, ...] = ()  # names of `reads` with many jobs, which a record does not list
    theirs: Mapping[str, Callable[[Wildcards], Iterable[str]]] = field(default_factory=dict)  # the user's own files
    params: Mapping[str, Callable[[Wildcards], Any]] = field(default_factory=dict)
    own_params: tuple[str, ...] = ()  # parameters that do not affect what is made from the result
    resources: Mapping[str, Callable[[Wildcards], Any]] = field(default_factory=dict)
    of_compressor: bool = False  # of the compressors' code only that of the job's own compressor counts
    lasts: bool = True  # False: a cache, neither recorded nor shared, and made again when a job needs it
    memory_mb: int = 0
    minutes: int = 0
    measured: bool = False  # requests time and memory by its size, records attempts, and may have GPUs
    local: bool = False  # runs on Snakemake's own machine, because it takes seconds or needs the network
    first: bool = False  # every cell waits for it
    alone: bool = False  # measures time: nothing else runs beside it on this machine
    threads: int = 1  # of a job that is `alone`
    environment: str = "environment"  # the file of envs/ that lists its packages
    shown: bool = False  # its output also goes to the terminal

    @property
    def names(self) -> tuple[str, ...]:
        """Its wildcards, in the order of its paths."""
        named = [part.split("}")[0] for part in self.paths()[0].split("{")[1:]]
        return tuple(dict.fromkeys(named))

    @property
    def log(self) -> str:
        """Its log below logs/ without the suffix: the rule, then the wildcards as in the paths of its results."""
        cell = ELASTIC if "{size}_{compressor}" in self.folder else CELL
        of_cell = [cell] if "compressor" in self.names else []
        rest = [f"{{{name}}}" for name in self.names if not (of_cell and name in CELL_KEYS)]
        return "/".join([self.rule, *of_cell, *rest])

    def log_of(self, results: str, wildcards: Wildcards) -> Path:
        """Return the log that a job of this stage writes."""
        return Path(results) / "logs" / f"{self.log.format_map(wildcards)}.log"

    def paths(self, *files: str) -> list[str]:
        """Return the paths of these files of its results, or of all its files, with wildcards in braces."""
        joined = (f"{self.folder}/{file}" if self.folder else file for file in files or self.files)
        return [file.removeprefix("cells/../") for file in joined]


def name_of(wildcards: Wildcards) -> str:
    """Return the name of the cell or training that a job's wildcards give."""
    n_visual_tokens = int(wildcards["n_visual_tokens"]) if "n_visual_tokens" in wildcards else None
    return cell_name(wildcards["size"], n_visual_tokens, wildcards["compressor"], int(wildcards["seed"]))


def wildcards_of(cell: CellSettings) -> dict[str, str]:
    """Return the wildcards of a cell's jobs; a training that serves every V has no wildcard for V."""
    named = {name: getattr(cell, name) for name in CELL_KEYS}
    return {name: str(value) for name, value in named.items() if value is not None}
