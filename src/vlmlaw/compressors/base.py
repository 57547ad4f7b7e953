"""What every compressor is: a module of tensors that turns P patches of an image into V visual tokens.

Shapes: B images (or image-question pairs), I images where several questions share one, P patches in raster order
(P = grid side squared), V visual tokens,
C vision width, L levels of the vision tower, K = L * C, T question tokens, D question width, H key width.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from vlmlaw.errors import UserError

LLM, EMBEDDING = "llm", "embedding"  # where a question comes from
PATCHES, ATTENTION, PROJECTED = "patches", "attention", "projected"  # where keys come from
WHOLE_ATTENTION = "whole attention"  # as ATTENTION, but of the tower's last layer, all channels as one head

BEFORE, AFTER = "before", "after"  # the projector: where a compressor stands


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which tensors keep their own dtype, also on a device that has no autocast."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class Inputs(NamedTuple):
    """A checked input; what the family at hand does not read may be None."""

    patches_BPC: Tensor  # the single level that everything reads: the last of the levels
    levels_BPK: Tensor  # all levels, shallow to deep
    question_BTD: Tensor | None
    question_mask_BT: Tensor | None  # True at the question's own tokens
    importance_BP: Tensor | None
    keys_BPH: Tensor | None
    image_of_B: Tensor | None  # which of I images each question is about; then patches and levels are I x P x ...
    class_BC: Tensor | None = None  # the tower's class token, of the level that everything reads

    def for_each_question(self, tensor_I: Tensor) -> Tensor:
        """What was made for each image (I, ...), repeated for each question (B, ...)."""
        return tensor_I if self.image_of_B is None else tensor_I[self.image_of_B]


class Shape(NamedTuple):
    """What a compressor is built for, whichever it is: everything but the options of its own."""

    grid_side: int
    width: int
    n_visual_tokens: int
    question_width: int | None = None
    n_levels: int = 1


class Compressor(nn.Module):
    """P patches to V tokens. Subclasses implement `compress`, and `flops` where there is anything to count.

    A subclass keeps no buffers, so that building it on torch's meta device and loading weights is enough, and
    its weights start from `reset_parameters`, which uses `torch.nn.init` alone.
    """

    name: ClassVar[str]  # its name in the table and in the experiment file
    elastic: ClassVar[bool] = False  # one set of weights serves every V: see with_n_visual_tokens
    training_free: ClassVar[bool] = False  # applied at inference to a model trained on all patches (elastic too)
    needs_question: ClassVar[bool] = False
    shares_images: ClassVar[bool] = False  # does once an image what does not depend on the question
    question_from: str = LLM  # what its question is: the LLM's last hidden states, or the embedding layer's rows
    keys_from: ClassVar[str] = PATCHES  # what a model passes as keys, where it has it
    inside_llm: ClassVar[bool] = False  # the LLM reads all P patches first, and its own attention chooses among them
    needs_importance: ClassVar[bool] = False
    reads_all_levels: ClassVar[bool] = False  # gains from several hidden states of the tower; others read the last
    moves_with_content: ClassVar[bool] = False  # positions depend on the sample: see forward_with_positions
    before_tower: ClassVar[bool] = False  # the image is made smaller, so that the tower itself makes V patches
    is_connector: ClassVar[bool] = False  # its tokens have the LLM's width (question_width): no projector follows
    place: str = BEFORE  # before or after the projector, as published; after it, its width is the LLM's
    may_stand: ClassVar[tuple[str, ...]] = (BEFORE,)  # where there are two, `place` is an option
    reads_class_token: ClassVar[bool] = False  # the tower's class token is one of its tokens, where there is one

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if self.needs_question and shape.question_width is None:
            raise UserError(f"compressor {self.name}: reads the question; found no question_width, give its width.")
        if self.is_connector and shape.question_width is None:
            raise UserError(f"compressor {self.name}: makes tokens of the LLM's width; give it as question_width.")
        self.grid_side, self.width, _, self.question_width, self.n_levels = shape
        self._at_least_one(**{key: size for key, size in shape._asdict().items() if key != "n_visual_tokens"})
        self.n_visual_tokens = self._allowed(shape.n_visual_tokens)

    # What it is, without running it.

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        """The numbers of visual tokens it can make of a grid of this side, ascending; any up to P unless it says so."""
        return list(range(1, grid_side**2 + 1))

    @classmethod
    def option_names(cls) -> list[str]:
        """The options of its own, beyond the shape that every compressor takes."""
        common = inspect.signature(Compressor.__init__).parameters
        own = [key for key in inspect.signature(cls.__init__).parameters if key not in common]
        return own + ["place"] * (len(cls.may_stand) > 1)

    @classmethod
    def options_text(cls) -> str:
        """Its options in words, for messages."""
        own = [name for name in cls.option_names() if name != "place"]
        beside = f", beside place ({' or '.join(cls.may_stand)} the projector)" if "place" in cls.option_names() else ""
        return (", ".join(own) or "none") + beside

    @classmethod
    def place_of(cls, options: Mapping[str, Any]) -> str:
        """Where it stands with these options: before or after the projector. Raises UserError for another place."""
        place = options.get("place", cls.place)
        if place not in cls.may_stand:
            raise UserError(f"compressor {cls.name}: place is {place!r}; expected {' or '.join(cls.may_stand)}.")
        return place

    @classmethod
    def key_options(cls, *, projected: int, attention: int | None, tower: int | None = None) -> dict[str, int]:
        """`key_width` for what its keys come from: patches projected to that width, or the tower's attention keys.

        `attention` is the width of one head and `tower` that of all; None for a tower without attention.
        """
        width = {PROJECTED: projected, ATTENTION: attention, WHOLE_ATTENTION: tower}.get(cls.keys_from)
        return {} if width is None else {"key_width": width}

    @property
    def n_patches(self) -> int:
        return self.grid_side**2

    @property
    def tower_side(self) -> int:
        """The side of the grid of patches that the tower makes: a smaller one where the image is made smaller first."""
        return self.grid_side

    @property
    def out_width(self) -> int:
        """The width of its tokens, which the model's projector then maps to the LLM's; the LLM's of a connector."""
        if not self.is_connector:
            return self.width
        assert self.question_width is not None  # checked when it was built
        return self.question_width

    @property
    def positions(self) -> Tensor | None:
        """(V, 2) rows and columns that its tokens stand for, on the CPU; patch (i, j) is centred at (i, j).

        None where a token has no place (learned queries) or its place depends on the sample.
        """
        return None

    def n_params(self) -> int:
        """Learned parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def n_input_tokens(self) -> int:
        """The visual tokens that the LLM's first layer reads: V, unless the choice is made inside the LLM."""
        return self.n_patches if self.inside_llm else self.n_visual_tokens

    def tokens_by_layer(self, n_layers: int) -> list[int]:
        """The visual tokens that each of the LLM's layers reads: V, unless some layers drop what they have read."""
        return [self.n_visual_tokens] * n_layers

    def flops(self, n_question_tokens: int = 0) -> int:
        """Forward FLOPs of one image with one question: products of matrices, convolutions, attention; x y + z is 2.

        The LLM's or embedding's own pass over the question is the caller's to count.
        """
        return 0

    def image_flops(self) -> int:
        """The part of `flops` that is spent once an image, however many questions share it."""
        return 0 if self.needs_question else self.flops()

    def batch_flops(self) -> int:
        """The part of `flops` that is spent once a call, however many images it has."""
        return 0

    def tokens_of_step(self, step: int, *, seed: int, aligning: bool = False) -> list[int]:
        """The numbers of tokens at which a training step takes its loss (the mean of them); a pure function.

        `aligning`: in stage 1, before the LLM is trained, which some methods go through at one number only.
        """
        return [self.n_visual_tokens]

    # Running it.

    def forward(
        self,
        patches_BPK: Tensor,
        question_BTD: Tensor | None = None,
        question_mask_BT: Tensor | None = None,
        *,
        importance_BP: Tensor | None = None,
        keys_BPH: Tensor | None = None,
        image_of_B: Tensor | None = None,
        class_BK: Tensor | None = None,
    ) -> Tensor:
        """Visual tokens (B, V, C). See the package's docstring for the inputs; what is not needed is not read."""
        of_image = (importance_BP, keys_BPH, image_of_B, class_BK)
        given = Inputs(patches_BPK, patches_BPK, question_BTD, question_mask_BT, *of_image)
        return self.compress(self.check(given))

    def forward_with_positions(
        self,
        patches_BPK: Tensor,
        question_BTD: Tensor | None = None,
        question_mask_BT: Tensor | None = None,
        *,
        importance_BP: Tensor | None = None,
        keys_BPH: Tensor | None = None,
        image_of_B: Tensor | None = None,
        class_BK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Visual tokens (B, V, C) and their positions in each sample (B, V, 2), or None where they have none."""
        of_image = (importance_BP, keys_BPH, image_of_B, class_BK)
        given = Inputs(patches_BPK, patches_BPK, question_BTD, question_mask_BT, *of_image)
        return self.compress_with_positions(self.check(given))

    def compress(self, inputs: Inputs) -> Tensor:
        raise NotImplementedError

    def compress_with_positions(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        visual_BVC = self.compress(inputs)
        positions_V2 = self.positions
        if positions_V2 is None:
            return visual_BVC, None
        return visual_BVC, positions_V2.to(visual_BVC.device).expand(len(visual_BVC), -1, -1)

    def with_n_visual_tokens(self, n_visual_tokens: int | None) -> Self:
        """The same compressor at another V (None: its own), with the same weights; it itself stays as it is.

        Raises UserError unless it is elastic, or for a V that it cannot make.

        >>> from vlmlaw.compressors import build_compressor
        >>> compressor = build_compressor("m3", 4, 8, 16)
        >>> fewer = compressor.with_n_visual_tokens(4)
        >>> fewer(torch.zeros(1, 16, 8)).shape, compressor.n_visual_tokens
        (torch.Size([1, 4, 8]), 16)
        """
        if n_visual_tokens is None or n_visual_tokens == self.n_visual_tokens:
            return self
        if not self.elastic:
            raise UserError(
                f"compressor {self.name}: its weights belong to V = {self.n_visual_tokens} and cannot make "
                f"V = {n_visual_tokens}; build another one, or use an elastic compressor."
            )
        other = copy.copy(self)  # of the module alone: weights and inner modules are shared
        other.n_visual_tokens = self._allowed(n_visual_tokens)
        return other

    def _trained_at(self, training_tokens: Sequence[int]) -> list[int]:
        """The numbers of tokens that an elastic compressor's training covers, checked and ascending."""
        if not (isinstance(training_tokens, (list, tuple)) and training_tokens):
            raise UserError(
                f"compressor {self.name}: training_tokens is {training_tokens!r}; expected a list of numbers of tokens."
            )
        return sorted({self._allowed(n_tokens) for n_tokens in training_tokens})

    def reset_parameters(self) -> None:
        """Set the initial weights. A model with an initialisation of its own must call this after it."""
        inner_first = list(self.modules())[:0:-1]
        for module in inner_first:
            reset: Any = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                reset()

    # Checks.

    def _at_least_one(self, **sizes: int | None) -> None:
        for key, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"compressor {self.name}: {key} is {value}; expected a whole number of at least 1.")

    def own_allowed_tokens(self) -> list[int]:
        """`allowed_tokens` of this instance, whose options may allow others than the class does without any."""
        return self.allowed_tokens(self.grid_side)

    def _truth_value(self, **options: bool) -> None:
        for key, value in options.items():
            if not isinstance(value, bool):
                raise UserError(f"compressor {self.name}: {key} is {value!r}; expected true or false.")

    def _allowed(self, n_visual_tokens: int) -> int:
        allowed = self.own_allowed_tokens()
        if n_visual_tokens not in allowed:
            raise UserError(
                f"compressor {self.name}: cannot make V = {n_visual_tokens} visual tokens of a "
                f"{self.grid_side} x {self.grid_side} grid of patches; V can be {_listed(allowed)}."
            )
        return n_visual_tokens

    def check(self, given: Inputs) -> Inputs:
        """The inputs as the family reads them, or a UserError where a shape is not what the construction promised."""
        levels, image_of_B = given.levels_BPK, given.image_of_B
        self._expect("patches", levels, (None, self.tower_side**2, self.n_levels * self.width))
        if self.needs_importance:
            self._expect("importance", given.importance_BP, (len(levels), self.n_patches))
        importance, keys, class_token = given.importance_BP, given.keys_BPH, given.class_BC
        if self.reads_class_token and class_token is not None:
            self._expect("class token", class_token, (len(levels), self.n_levels * self.width))
            class_token = class_token[..., -self.width :]
        n_questions = len(levels)
        if image_of_B is not None:
            self._expect("image_of", image_of_B, (None,))
            n_questions = len(image_of_B)
            if not self.shares_images:
                levels = levels[image_of_B]
                of_image = (importance, keys, class_token)
                importance, keys, class_token = (x if x is None else x[image_of_B] for x in of_image)
                image_of_B = None
        question_mask_BT = given.question_mask_BT
        if self.needs_question:
            self._expect("question", given.question_BTD, (n_questions, None, self.question_width))
            if given.question_BTD is not None and question_mask_BT is not None:
                self._expect("question mask", question_mask_BT, tuple(given.question_BTD.shape[:2]))
                question_mask_BT = question_mask_BT.bool()
        return Inputs(
            patches_BPC=levels[..., -self.width :],
            levels_BPK=levels,
            question_BTD=given.question_BTD,
            question_mask_BT=question_mask_BT,
            importance_BP=importance,
            keys_BPH=keys,
            image_of_B=image_of_B,
            class_BC=class_token,
        )

    def _expect(self, what: str, tensor: Tensor | None, shape: tuple[int | None, ...]) -> None:
        if tensor is None:
            found = "none"
        elif tensor.ndim == len(shape) and all(
            want in (None, have) for have, want in zip(tensor.shape, shape, strict=True)
        ):
            return
        else:
            found = f"shape {tuple(tensor.shape)}"
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(
            f"compressor {self.name} (grid {self.grid_side}, width {self.width}, {self.n_levels} level(s)): "
            f"{what}: found {found}, expected shape ({wanted})."
        )


def _listed(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"any whole number from {numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def patch_positions(grid_side: int) -> Tensor:
    """(P, 2) row and column of each patch, in raster order."""
    side = torch.arange(grid_side, dtype=torch.float32)
    return torch.cartesian_prod(side, side).reshape(-1, 2)
