"""A choice by what the LLM's own answer is explained by.

Shapes: B sequences, N image tokens in each, V that stay.
"""

from torch import Tensor

from vlmlaw.compressors.base import Shape
from vlmlaw.compressors.inside_llm import FastV, Reading
from vlmlaw.compressors.selection import best


class Explained(FastV):
    """The V patches that the answer's first token is explained by, after Lei et al. 2025 (arXiv 2506.01097).

    Relevance is attention times its gradient, where positive, through all layers (`vlm.explanation`); the tokens of
    highest relevance go on. The paper shows with it that tokens can go at the LLM's input, and has a network predict it
    from the first layer's attention, whose weights and kernels are not public. Departures: no network, so that all
    patches go through the LLM and back once, which costs more than it saves: this is what a choice by explanation could
    reach. The answer's first token alone explains, not the mean over all; and the first layer reads all patches.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("explained", 24, 8, 72).tokens_by_layer(4)
    [576, 72, 72, 72]
    """

    name = "explained"
    explains = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, layer=1)

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        return best(reading.relevance(), n_kept)
