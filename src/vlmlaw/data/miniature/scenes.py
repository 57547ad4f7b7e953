"""The reasoning suite: scenes of colored objects, with questions that need knowledge, hops, counting and arithmetic.

Every question's answer is one word; what it refers to (a color, a place) comes last, so that the answer is
predicted at the word that it depends on: small LLMs learn that far sooner.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlmlaw.data.miniature.canvas import GRID_SIDE, IMAGE_PX, PATCH_PX, Picture, background, finish, place_at
from vlmlaw.data.miniature.glyphs import COLORS, DIGITS, GLYPHS, glyph_mask
from vlmlaw.data.miniature.knowledge import NAMES, RELATIONS, VALUES, KnowledgeBase
from vlmlaw.data.miniature.zipf import draw_rank

# Slots along a side of the scene. Objects fill the middle of their slot, so a finer grid has smaller ones.
SLOTS_SIDES = (4, 6, 12)
GLYPH_SHARE_OF_SLOT = (0.8, 1.0)
# Scenes of n objects come as often as n^-CROWD_EXPONENT, n up to MOST_OBJECTS. Objects that share a visual token are
# told apart less well, so scenes differ in the tokens that they need: one need for all would make the error a step in
# V, and needs spread as a power law make it fall as one (as Michaud et al. 2023, arXiv 2303.13506, argue for N).
MOST_OBJECTS = 8
CROWD_EXPONENT = 1.0
ZIPF_EXPONENT = 1.0  # of relations: how much more often the first is asked than the next ones
MOST_COUNTED = 5
NOISE_GREY_LEVELS = 6.0
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class Thing:
    """One object: its glyph, color, and the box of its top-left corner and side, in pixels."""

    glyph: int
    color: int
    top_px: int
    left_px: int
    side_px: int

    @property
    def place(self) -> str:
        return place_at(self.top_px + self.side_px / 2, self.left_px + self.side_px / 2)

    @property
    def digit(self) -> int | None:
        return self.glyph if self.glyph < len(DIGITS) else None


def _things(rng: np.random.Generator, n_things: int) -> list[Thing]:
    slots_side = int(rng.choice(SLOTS_SIDES))
    slot_px = IMAGE_PX // slots_side
    least, most = (round(share * slot_px) for share in GLYPH_SHARE_OF_SLOT)
    things = []
    for slot in sorted(rng.choice(slots_side**2, size=n_things, replace=False)):
        side = int(rng.integers(least, most + 1))
        top, left = (int(n) * slot_px + (slot_px - side) // 2 for n in divmod(slot, slots_side))
        # Half of the objects are digits, so that comparing and arithmetic have something to work on.
        digit = rng.random() < 0.5
        glyph = int(rng.integers(len(DIGITS)) if digit else rng.integers(len(DIGITS), len(GLYPHS)))
        things.append(Thing(glyph, int(rng.integers(len(COLORS))), top, left, side))
    return things


def _once(things: list[Thing]) -> list[Thing]:
    """The objects whose color no other object has: those that a question can name by color."""
    colors = [thing.color for thing in things]
    return [thing for thing in things if colors.count(thing.color) == 1]


Question = tuple[str, str, str] | None  # (kind, question, answer), or None where the scene allows none of that kind


def _pick(items: list[Thing], rng: np.random.Generator, n: int) -> list[Thing] | None:
    return [items[i] for i in rng.choice(len(items), size=n, replace=False)] if len(items) >= n else None


def _attribute(things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator) -> Question:
    if not (picked := _pick(_once(things), rng, 1)):
        return None
    return "attribute", f"shape {COLOR_NAMES[picked[0].color]}", GLYPHS[picked[0].glyph]


def _relation(n_relations: int, rng: np.random.Generator) -> int:
    """A relation by Zipf's law, the first being asked most, so that larger LLMs and more steps buy them one by one."""
    return draw_rank(n_relations, ZIPF_EXPONENT, rng)


def _fact(things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator) -> Question:
    if not (picked := _pick(_once(things), rng, 1)):
        return None
    thing = picked[0]
    relation = _relation(kb.n_relations + 1, rng)
    if relation == kb.n_relations:
        return "fact", f"owner {COLOR_NAMES[thing.color]}", NAMES[kb.owners[thing.glyph, thing.color]]
    value = VALUES[kb.facts[thing.glyph, thing.color, relation]]
    return "fact", f"{RELATIONS[relation]} {COLOR_NAMES[thing.color]}", value


def _hop(things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator) -> Question:
    """What the owner of an object likes: the owner must be recalled first, and is not named."""
    if not (picked := _pick(_once(things), rng, 1)):
        return None
    relation = _relation(kb.n_relations, rng)
    owner = kb.owners[picked[0].glyph, picked[0].color]
    return "hop", f"{RELATIONS[relation]} owner {COLOR_NAMES[picked[0].color]}", VALUES[kb.likes[owner, relation]]


def _count(things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator) -> Question:
    """How many there are of something, the answer drawn first, or most would be 0 or 1."""
    if len(things) < 2:
        return None
    n_digits = sum(thing.digit is not None for thing in things)
    colors = [COLOR_NAMES[thing.color] for thing in things]
    counts = {"things": len(things), "digits": n_digits, "shapes": len(things) - n_digits}
    counts |= {color: colors.count(color) for color in sorted(set(colors))}
    wanted = int(rng.integers(MOST_COUNTED + 1))
    fitting = [word for word, n in counts.items() if n == wanted]
    return ("count", f"count {fitting[rng.integers(len(fitting))]}", str(wanted)) if fitting else None


def _compare(things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator) -> Question:
    """Which of two digits is the larger: with a number in the question, that number alone would say most answers."""
    picked = _pick([thing for thing in _once(things) if thing.digit is not None], rng, 2)
    if picked is None or picked[0].digit == picked[1].digit:
        return None
    first, second = (COLOR_NAMES[thing.color] for thing in picked)
    larger = max(picked, key=lambda thing: thing.digit or 0)
    return "compare", f"larger {first} {second}", COLOR_NAMES[larger.color]


def _arithmetic(things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator) -> Question:
    """A digit plus a number that the question gives, or the sum of two digits."""
    digits = [thing for thing in _once(things) if thing.digit is not None]
    n_addends = int(rng.integers(1, 3))
    picked = _pick(digits, rng, n_addends)
    if picked is None:
        return None
    colors = [COLOR_NAMES[thing.color] for thing in picked]
    total = sum(thing.digit or 0 for thing in picked)
    if n_addends == 2:
        return "arithmetic", f"sum {colors[0]} {colors[1]}", str(total)
    given = int(rng.integers(1, 6))
    return "arithmetic", f"add {given} {colors[0]}", str(total + given)


def _likes(things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator) -> Question:
    """The second hop alone; it needs no scene, so only the LLMs' text asks it."""
    name, relation = rng.integers(len(NAMES)), _relation(kb.n_relations, rng)
    return "likes", f"{RELATIONS[relation]} {NAMES[name]}", VALUES[kb.likes[name, relation]]


KINDS: dict[str, Callable[[list[Thing], KnowledgeBase, np.random.Generator], Question]] = {
    "attribute": _attribute,
    "fact": _fact,
    "hop": _hop,
    "count": _count,
    "compare": _compare,
    "arithmetic": _arithmetic,
    "likes": _likes,
}
# Shares of the kinds. Text is where an LLM learns its facts.
SHARES_OF_PICTURES = {"attribute": 1, "fact": 4, "hop": 2, "count": 1, "compare": 1, "arithmetic": 1}
SHARES_OF_TEXT = {"attribute": 4, "fact": 5, "hop": 4, "count": 1, "compare": 2, "arithmetic": 2, "likes": 1}
PASSES = 50  # through the kinds, before a scene of few objects is given fewer questions than asked for


def _ask(
    things: list[Thing], kb: KnowledgeBase, rng: np.random.Generator, *, n_questions: int, shares: dict[str, int]
) -> list[tuple[str, str, str]]:
    """Different questions of the kinds in the given shares, as far as the scene allows each: at most n_questions."""
    deck = [kind for kind, share in shares.items() for _ in range(share)]
    asked: dict[tuple[str, str, str], None] = {}
    for _ in range(PASSES):
        for index in rng.permutation(len(deck)):
            question = KINDS[deck[index]](things, kb, rng)
            if question is not None and len(asked) < n_questions:
                asked[question] = None
        if len(asked) == n_questions:
            break
    return list(asked)


def describe_scene(kb: KnowledgeBase, rng: np.random.Generator, *, n_questions: int) -> tuple[str, list[tuple]]:
    """A scene in words and its questions, for text.

    One to MOST_OBJECTS objects come equally often: where most scenes have a single object, LLMs seldom learn to find
    the one that a question names.
    """
    things = _things(rng, int(rng.integers(1, MOST_OBJECTS + 1)))
    return _caption(things), _ask(things, kb, rng, n_questions=n_questions, shares=SHARES_OF_TEXT)


def thing_words() -> list[str]:
    """The words for objects of every shape in every color."""
    return [_thing_word(glyph, color) for glyph in range(len(GLYPHS)) for color in range(len(COLORS))]


def _thing_word(glyph: int, color: int) -> str:
    return f"{COLOR_NAMES[color]}_{GLYPHS[glyph]}"


def _caption(things: list[Thing]) -> str:
    """The objects in words: one word for shape and color, as a visual token holds both, then the place.

    Written as two words, seven of eight LLMs did not learn within their pretraining to find the shape of a color, and
    which one did was luck (docs/experiments.md): that takes two layers of attention to be learned together (Olsson et
    al. 2022, arXiv 2209.11895), which no visual token asks for.
    """
    return " ".join(f"{_thing_word(t.glyph, t.color)} {t.place}" for t in things)


def draw_scene(kb: KnowledgeBase, rng: np.random.Generator, *, n_questions: int, held_out: bool) -> Picture:
    """One scene of few objects with its questions. `held_out` draws the digits that training never shows."""
    things = _things(rng, 1 + draw_rank(MOST_OBJECTS, CROWD_EXPONENT, rng))
    canvas = background(rng, low=10, high=60)
    glyph_PP = np.zeros((GRID_SIDE, GRID_SIDE), dtype=np.uint8)
    color_PP = np.zeros_like(glyph_PP)
    for thing in things:
        box = np.s_[thing.top_px : thing.top_px + thing.side_px, thing.left_px : thing.left_px + thing.side_px]
        mask = glyph_mask(thing.glyph, thing.side_px, rng=rng, held_out=held_out)[..., None]
        tint = np.array(COLORS[COLOR_NAMES[thing.color]]) * rng.uniform(0.8, 1.0)
        canvas[box] = canvas[box] * (1 - mask) + tint * mask
        # A patch is labelled with the object that covers its centre.
        centre = np.s_[_centred(thing.top_px, thing.side_px), _centred(thing.left_px, thing.side_px)]
        glyph_PP[centre], color_PP[centre] = thing.glyph + 1, thing.color + 1
    return Picture(
        pixels_HWC=finish(canvas, rng, noise=NOISE_GREY_LEVELS),
        glyph_PP=glyph_PP,
        color_PP=color_PP,
        questions=tuple(_ask(things, kb, rng, n_questions=n_questions, shares=SHARES_OF_PICTURES)),
    )


def _centred(start_px: int, side_px: int) -> slice:
    """The patches along one axis whose centres lie in [start, start + side)."""
    first = -(-(start_px - PATCH_PX // 2) // PATCH_PX)
    last = (start_px + side_px - 1 - PATCH_PX // 2) // PATCH_PX
    return slice(max(first, 0), last + 1)
