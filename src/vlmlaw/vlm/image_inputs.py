"""All that a model call is given about its images, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ImageInputs:
    """The images of a call, as pixels or patch features, and the further inputs that some compressors read.

    A field that a call does not have is None. Shapes: I images, B sequences with an image, P patches, K = levels *
    tower width, H key width, Q question tokens, S pixels a side. `image_of` may be left out where I = B and the
    images stand in the order of the sequences.

    | field         | shape                      | what it holds                                                       |
    |---------------|----------------------------|---------------------------------------------------------------------|
    | pixel_values  | (I, 3, S, S), (I, S, S, 3) | normalised floats, or bytes that the model normalises               |
    | patches       | (I, P, K)                  | the tower's features; they replace `pixel_values`                   |
    | question_ids  | (B, Q)                     | the question without the image, for compressors that read it        |
    | question_mask | (B, Q)                     | True, or 1, at the question's own tokens                            |
    | image_of      | (B,)                       | which image each sequence is about, where several share one         |
    | importance    | (I, P)                     | how much the tower attends to each patch                            |
    | keys          | (I, P, H)                  | the tower's attention keys                                          |
    | class_token   | (I, K)                     | the features of the tower's class token                             |

    >>> import torch
    >>> images = ImageInputs(patches=torch.zeros(2, 16, 8), image_of=torch.tensor([0, 1, 1]))
    >>> images.n_sequences, sorted(images.tensors())
    (3, ['image_of', 'patches'])
    >>> images.to("meta").patches.device.type
    'meta'
    """

    pixel_values: Tensor | None = None
    patches: Tensor | None = None
    question_ids: Tensor | None = None
    question_mask: Tensor | None = None
    image_of: Tensor | None = None
    importance: Tensor | None = None
    keys: Tensor | None = None
    class_token: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are set, by name, as a forward takes them one by one."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> ImageInputs:
        """Return a copy with `change` applied to each tensor."""
        return ImageInputs(**{name: change(tensor) for name, tensor in self.tensors().items()})

    def to(self, device: Any) -> ImageInputs:
        """Return a copy on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def joined(self, more: ImageInputs) -> ImageInputs:
        """Return the fields of both. Raises ValueError if a field is set in both.

        >>> import torch
        >>> pixels = ImageInputs(pixel_values=torch.zeros(1, 3, 8, 8))
        >>> sorted(pixels.joined(ImageInputs(question_ids=torch.tensor([[5]]))).tensors())
        ['pixel_values', 'question_ids']
        >>> pixels.joined(pixels)
        Traceback (most recent call last):
        ValueError: pixel_values given twice; give each image input once, by its name or in `images`
        """
        own, other = self.tensors(), more.tensors()
        if both := sorted(own.keys() & other.keys()):
            raise ValueError(f"{', '.join(both)} given twice; give each image input once, by its name or in `images`")
        return ImageInputs(**own, **other)

    def rows(self, index: Any) -> ImageInputs:
        """Return these rows of each tensor; an index may repeat an image that several sequences show.

        >>> import torch
        >>> ImageInputs(patches=torch.arange(4.0).view(2, 2, 1)).rows([1, 1]).patches.flatten().tolist()
        [2.0, 3.0, 2.0, 3.0]
        """
        return self.map(lambda tensor: tensor[index])

    @property
    def n_sequences(self) -> int:
        """B, the number of times that the texts show an image."""
        images = self.pixel_values if self.patches is None else self.patches
        if images is None:
            return 0
        return len(images if self.image_of is None else self.image_of)


IMAGE_INPUTS = tuple(field.name for field in fields(ImageInputs))
