"""The miniature's world knowledge: facts that no image shows, so that an LLM must store them in its parameters."""

from dataclasses import dataclass

import numpy as np

from vlmlaw.data.glyphs import COLORS, GLYPHS

RELATIONS = (
    *("pet", "food", "home", "tool", "song", "game", "tree", "drink", "hobby", "metal", "fabric", "planet"),
    *("sport", "fruit", "river", "dance", "month", "spice", "stone", "craft", "flower", "author", "island", "wind"),
)
VALUES = (
    *("otter", "falcon", "badger", "heron", "lynx", "tapir", "gecko", "ibis", "bread", "honey", "olive", "pepper"),
    *("cabin", "tower", "harbor", "castle", "hammer", "chisel", "needle", "lantern", "ballad", "anthem", "fugue"),
    *("waltz", "chess", "darts", "polo", "rugby", "maple", "cedar", "willow", "birch", "cocoa", "cider", "mocha"),
    *("nectar", "copper", "silver", "cobalt", "nickel", "linen", "velvet", "cotton", "satin", "saturn", "venus"),
    *("mars", "pluto", "amber", "jade", "quartz", "opal", "tulip", "lotus", "iris", "poppy", "dante", "homer"),
    *("crete", "malta", "sirocco", "mistral", "breeze"),
)


@dataclass(frozen=True)
class KnowledgeBase:
    """facts[glyph, color, relation] and hops[value, relation], each the number of a value; drawn once from a seed."""

    facts: np.ndarray
    hops: np.ndarray

    @classmethod
    def draw(cls, seed: int, *, n_relations: int) -> "KnowledgeBase":
        """A random knowledge base of 128 x n_relations facts and 64 x n_relations second hops."""
        rng = np.random.default_rng([seed, 1])
        facts = rng.integers(len(VALUES), size=(len(GLYPHS), len(COLORS), n_relations))
        return cls(facts=facts, hops=rng.integers(len(VALUES), size=(len(VALUES), n_relations)))

    @property
    def n_relations(self) -> int:
        return self.facts.shape[2]
