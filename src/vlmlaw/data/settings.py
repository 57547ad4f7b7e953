"""Settings of the stages that make data: the miniature's pictures and text, LLaVA's files, tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vlmlaw.data.framing import CLIP_GREY, FITS
from vlmlaw.errors import UserError
from vlmlaw.settings import choice, later, number, passive


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The text that the miniature's language models are pretrained on.

    records: the number of texts
    reading_share: the share of texts that practise reading; the others state facts and reason about scenes
    """

    records: int = number(least=1)
    reading_share: float = number(least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The miniature's pictures and questions. A stage that draws one split sees only that split's number of images.

    source: the miniature, whose pictures are drawn by this project
    seed: of everything drawn; another one makes other pictures, questions and facts
    n_relations: how many kinds of facts the language models learn and are asked about
    questions_per_image: how many questions each picture is asked
    images: the number of pictures of each split: train, development and test
    text: what the language models are pretrained on
    """

    source: str = choice("miniature")
    seed: int = number(least=0)
    n_relations: int = number(least=1)
    questions_per_image: int = number(least=1)
    images: Mapping[str, int] = number(least=1)
    text: TextSettings | None = None


@dataclass(frozen=True, kw_only=True)
class LlavaFile:
    """A LLaVA-style JSON file and the folder or .zip archive of its images; both may be files of a hub dataset.

    `records` is how many records the file must hold. `text_tokens`, a record's mean, and `question_tokens`, that of
    its first question alone, are for estimates of cost only.

    conversations: the file of records in LLaVA's layout: JSON, JSON lines or parquet
    images: the folder or .zip archive that the records' image names are relative to
    revision: of the hub dataset: a branch, tag or commit
    records: how many records the file must hold; null: any number
    text_tokens: the mean length of a record's text in tokens, for estimates only
    question_tokens: the mean length of the first question alone in tokens, for estimates only
    """

    conversations: str
    images: str = ""
    repository: str = ""  # a dataset of the hub; conversations and images are then files of it
    revision: str = "main"
    records: int | None = number(least=1, default=None)
    fit: str | None = later(choice(*FITS, default=None))  # how its images become squares; null: data.fit
    text_tokens: int = passive(number(least=1, default=100))
    question_tokens: int = passive(number(least=0, default=7))


@dataclass(frozen=True, kw_only=True)
class LlavaData:
    """Conversations about images in LLaVA's layout: for stage 1, for stage 2, and suites of questions as a test.

    Stage 1 and stage 2 may each have a list of files, whose records come one file after the other.

    source: files in LLaVA's layout
    align: the records of stage 1; null: no stage 1
    train: the records that cells are trained on
    pad_color: the ground (red, green, blue) around a padded picture; CLIP's mean colour by default
    """

    source: str = choice("llava")
    align: LlavaFile | tuple[LlavaFile, ...] | None = None
    train: LlavaFile | tuple[LlavaFile, ...]
    test: Mapping[str, LlavaFile] = field(default_factory=dict)  # may be left out where there are benchmarks
    fit: str = choice(*FITS, default="pad")  # how an image becomes a square
    pad_color: tuple[int, ...] = number(least=0, most=255, default=CLIP_GREY)
    skip_at_most: float = number(least=0, most=1, default=0.0)  # share of a training file's records
    max_text_tokens: int = number(least=8, default=2048)  # what a record says beyond is cut off, whatever V is
    max_tokens: int | None = later(number(least=8, default=None))  # the same of text and image tokens, V each, as LLaVA
    chat_template: str = "chatml"  # or `model` for the language model's own, or a .jinja file

    def __post_init__(self) -> None:
        for name in ("align", "train"):
            if getattr(self, name) == ():
                raise UserError(f"{name}: the list has no file; name one with its conversations.")

    def files(self, split: str) -> tuple[LlavaFile, ...]:
        """The files of `align` or `train`, in order; () for a split that is not there."""
        given = getattr(self, split)
        return given if isinstance(given, tuple) else (() if given is None else (given,))

    def whole(self, split: str) -> LlavaFile:
        """Return one file in place of all of a split's, for estimates: with all records and mean token counts."""
        files = self.files(split)
        counts = [file.records or 0 for file in files]
        weights = counts if all(counts) else [1] * len(files)
        mean = {
            name: round(sum(w * getattr(f, name) for w, f in zip(weights, files, strict=True)) / sum(weights))
            for name in ("text_tokens", "question_tokens")
        }
        return replace(files[0], records=sum(counts) if all(counts) else None, **mean)


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """One split's files, and how images become squares of `image_px`. Each question of a test becomes a record."""

    files: Mapping[str, LlavaFile]  # by suite; of a training split without a name, or by number after the first
    image_px: int = number(least=1)
    fit: str = choice(*FITS)
    pad_color: tuple[int, ...] = number(least=0, most=255)
    skip_at_most: float = number(least=0, most=1, default=0.0)
    one_question_each: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """How conversations become tokens; `independent` questions do not see one another."""

    independent: bool
    max_text_tokens: int = number(least=0, default=0)  # 0: any number
    skip_at_most: float = number(least=0, most=1, default=0.0)
