"""The miniature's world knowledge: facts that no image shows, so that an LLM must store them in its parameters."""

from dataclasses import dataclass

import numpy as np

from vlmlaw.data.miniature.glyphs import COLORS, GLYPHS

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


NAMES = (
    *("ada", "ben", "carla", "dev", "elif", "femi", "greta", "hugo", "ines", "jun", "kofi", "lena", "milo", "nadia"),
    *("omar", "petra", "quinn", "rosa", "sven", "tara", "uma", "viktor", "wanda", "yara"),
)


@dataclass(frozen=True)
class KnowledgeBase:
    """Numbers of values and names, drawn once from a seed.

    facts[glyph, color, relation] is a value and owners[glyph, color] a name: what is known of a kind of object.
    likes[name, relation] is a value: what is known of an owner, the second hop.
    """

    facts: np.ndarray
    owners: np.ndarray
    likes: np.ndarray

    @classmethod
    def draw(cls, seed: int, *, n_relations: int) -> "KnowledgeBase":
        """A random knowledge base of 128 x (n_relations + 1) facts and 24 x n_relations second hops."""
        rng = np.random.default_rng([seed, len(RELATIONS)])
        kinds_of_object = (len(GLYPHS), len(COLORS))
        return cls(
            facts=rng.integers(len(VALUES), size=(*kinds_of_object, n_relations)),
            owners=rng.integers(len(NAMES), size=kinds_of_object),
            likes=rng.integers(len(VALUES), size=(len(NAMES), n_relations)),
        )

    @property
    def n_relations(self) -> int:
        return self.facts.shape[2]
