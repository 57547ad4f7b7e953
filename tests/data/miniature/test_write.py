"""The miniature's data: pictures are functions of their numbers, splits share nothing, answers are right."""

from collections import Counter

import numpy as np
import pytest

from vlmlaw.data.miniature import scenes
from vlmlaw.data.miniature.canvas import GRID_SIDE, PATCH_PX, place_words
from vlmlaw.data.miniature.glyphs import COLORS, DIGITS, GLYPHS, LETTERS, _digit_pool
from vlmlaw.data.miniature.knowledge import NAMES, RELATIONS, VALUES, KnowledgeBase
from vlmlaw.data.miniature.reading import LAYOUTS, describe_page
from vlmlaw.data.miniature.scenes import describe_scene
from vlmlaw.data.miniature.words import N_LETTERS, WORDS
from vlmlaw.data.miniature.write import SUITES, draw, draw_split, write_corpus
from vlmlaw.data.miniature.zipf import draw_rank, shares
from vlmlaw.data.settings import DataSettings, TextSettings
from vlmlaw.data.shards import Dataset

KB = KnowledgeBase.draw(3, n_relations=4)
COLOR_NAMES = tuple(COLORS)


def pictures(split, suite, n=40, **options):
    given = {"kb": KB, "seed": 3, "n_questions": 8} | options
    return [draw(split, suite, index, **given) for index in range(n)]


@pytest.fixture
def seen(monkeypatch):
    """The objects of every scene that is drawn or described, as they come."""
    drawn, original = [], scenes._things
    monkeypatch.setattr(scenes, "_things", lambda *args: drawn.append(original(*args)) or drawn[-1])
    return drawn


def answer(question, things):
    """The right answer to a question about a scene, by reading the question: written apart from what asks it."""
    words = question.split()
    by_color = {COLOR_NAMES[t.color]: t for t in things}
    n_of_color = Counter(COLOR_NAMES[t.color] for t in things)
    first, *rest = words
    named = [by_color[word] for word in rest if word in by_color]
    if first == "count":
        n_digits = len([t for t in things if GLYPHS[t.glyph] in DIGITS])
        counts = {"things": len(things), "digits": n_digits, "shapes": len(things) - n_digits}
        return str(counts.get(rest[0], n_of_color[rest[0]]))
    # Everything else names objects by colors that only they have.
    assert all(n_of_color[COLOR_NAMES[t.color]] == 1 for t in named), question
    if first == "shape":
        return GLYPHS[named[0].glyph]
    if first == "add":
        return str(int(rest[0]) + DIGITS.index(GLYPHS[named[0].glyph]))
    if first == "sum":
        return str(sum(DIGITS.index(GLYPHS[t.glyph]) for t in named))
    if first == "larger":
        return COLOR_NAMES[max(named, key=lambda t: DIGITS.index(GLYPHS[t.glyph])).color]
    if first == "owner":
        return NAMES[KB.owners[named[0].glyph, named[0].color]]
    relation = RELATIONS.index(first)
    if rest[0] == "owner":
        return VALUES[KB.likes[KB.owners[named[0].glyph, named[0].color], relation]]
    if rest[0] in NAMES:
        return VALUES[KB.likes[NAMES.index(rest[0]), relation]]
    return VALUES[KB.facts[named[0].glyph, named[0].color, relation]]


def test_answers_about_scenes_are_right(seen):
    kinds = Counter()
    for picture, things in zip(pictures("train", "reasoning", 150), seen, strict=True):
        for kind, question, given in picture.questions:
            assert given == answer(question, things), (question, things)
            kinds[kind] += 1
    assert set(kinds) == set(scenes.SHARES_OF_PICTURES) and min(kinds.values()) > 10


def test_a_scene_is_asked_no_question_twice_even_where_few_can_be_asked():
    kb = KnowledgeBase.draw(3, n_relations=1)
    asked = [picture.questions for picture in pictures("train", "reasoning", kb=kb, n_questions=64)]
    assert all(len(set(questions)) == len(questions) for questions in asked)
    assert 3 < min(map(len, asked)) < max(map(len, asked)) <= 64


def test_the_first_of_two_digits_is_as_often_the_larger_as_the_second():
    first = [
        question.split()[1] == given
        for picture in pictures("train", "reasoning", 600, n_questions=16)
        for kind, question, given in picture.questions
        if kind == "compare"
    ]
    assert len(first) > 100 and abs(np.mean(first) - 0.5) < 0.1


def test_answers_in_the_text_are_right(seen):
    kinds = Counter()
    for index in range(200):
        caption, asked = describe_scene(KB, np.random.default_rng(index), n_questions=8)
        assert len(asked) == 8
        words = caption.split()
        told = list(zip(words[::2], words[1::2], strict=True))
        assert told == [(f"{COLOR_NAMES[t.color]}_{GLYPHS[t.glyph]}", t.place) for t in seen[-1]]
        for kind, question, given in asked:
            assert given == answer(question, seen[-1]), (question, seen[-1])
            kinds[kind] += 1
    assert set(kinds) == set(scenes.SHARES_OF_TEXT)
    n_objects = Counter(len(things) for things in seen)  # of 200 scenes: 25 each, standard deviation 4.7
    assert set(n_objects) == set(range(1, 9)) and min(n_objects.values()) > 10 and max(n_objects.values()) < 42


def test_patches_are_labelled_with_the_object_at_their_centre(seen):
    for picture, things in zip(pictures("train", "reasoning"), seen, strict=True):
        glyphs, colors = np.zeros((2, GRID_SIDE, GRID_SIDE), dtype=int)
        for row in range(GRID_SIDE):
            for column in range(GRID_SIDE):
                y, x = (row + 0.5) * PATCH_PX, (column + 0.5) * PATCH_PX
                for t in things:
                    if t.top_px <= y < t.top_px + t.side_px and t.left_px <= x < t.left_px + t.side_px:
                        glyphs[row, column], colors[row, column] = t.glyph + 1, t.color + 1
        assert np.array_equal(picture.glyph_PP, glyphs) and np.array_equal(picture.color_PP, colors)


def test_objects_do_not_overlap_nor_leave_the_picture(seen):
    for picture, things in zip(pictures("test", "reasoning"), seen, strict=True):
        taken = np.zeros(picture.pixels_HWC.shape[:2], dtype=int)
        for t in things:
            taken[t.top_px : t.top_px + t.side_px, t.left_px : t.left_px + t.side_px] += 1
        assert taken.max() == 1 and taken.sum() == sum(t.side_px**2 for t in things)


def test_scenes_need_a_spread_of_tokens(seen):
    """As many scenes of n objects as n^-1, on grids that make objects of several sizes."""
    pictures("train", "reasoning", 600, n_questions=1)
    counts = Counter(len(things) for things in seen)
    assert set(counts) == set(range(1, scenes.MOST_OBJECTS + 1))
    for n in (1, 2, 4):
        assert counts[n] / 600 == pytest.approx(shares(scenes.MOST_OBJECTS, 1.0)[n - 1], abs=0.06)
    sides = {t.side_px for things in seen for t in things}
    assert min(sides) < PATCH_PX < 2 * PATCH_PX < max(sides)


def test_commoner_relations_are_asked_more_often_and_every_one_is():
    kb = KnowledgeBase.draw(3, n_relations=24)
    asked = Counter()
    for index in range(800):
        _, questions = describe_scene(kb, np.random.default_rng(index), n_questions=8)
        asked.update(question.split()[0] for kind, question, _ in questions if kind == "fact")
    assert set(asked) == {*RELATIONS, "owner"}
    assert asked[RELATIONS[0]] > asked[RELATIONS[3]] > asked[RELATIONS[20]]


def test_no_count_is_the_best_guess():
    """Where counts were mostly 0 and 1, a guess was right on more than half."""
    counts = Counter(
        given
        for picture in pictures("train", "reasoning", 600, n_questions=16)
        for kind, _, given in picture.questions
        if kind == "count"
    )
    assert set(counts) == set(map(str, range(scenes.MOST_COUNTED + 1)))
    assert max(counts.values()) / counts.total() < 0.4, counts


def test_ranks_fall_as_a_power():
    rng = np.random.default_rng(0)
    drawn = np.bincount([draw_rank(8, 1.0, rng) for _ in range(20000)], minlength=8) / 20000
    assert drawn == pytest.approx(shares(8, 1.0), abs=0.02)
    assert shares(8, 1.0)[0] / shares(8, 1.0)[7] == pytest.approx(8)


def test_answers_about_pages_are_right():
    """A word is what the patches from its first letter's on show."""
    places = {word: divmod(index, GRID_SIDE) for index, word in enumerate(place_words())}
    shown, kinds = Counter(), Counter()
    for index, picture in enumerate(pictures("test", "reading", 60)):
        density, n_words = LAYOUTS[index % len(LAYOUTS)]
        step = GRID_SIDE // density
        for kind, question, given in picture.questions:
            what, place = question.split()
            row, column = places[place]
            numbers = picture.glyph_PP[row, column : column + N_LETTERS * step : step].astype(int) - 1 - len(GLYPHS)
            assert what == "word" and "".join(LETTERS[n] for n in numbers).lower() == given
            shown[given] += 1
            kinds[kind] += 1
        cells = picture.glyph_PP.reshape(density, step, density, step)
        assert (cells == cells[:, :1, :, :1]).all()
        assert (picture.glyph_PP > 0).sum() == n_words * N_LETTERS * step**2
    assert len(kinds) == len(LAYOUTS) and len(shown) > 40


def test_answers_about_pages_in_words_are_right():
    """A letter is what stands before its place in the caption, and a word the six letters from there on."""
    kinds = Counter()
    for index in range(60):
        caption, asked = describe_page(np.random.default_rng(index), n_questions=8)
        letters, places = caption.split()[::2], caption.split()[1::2]
        assert len(letters) == len(places) == len(set(places)) and len(letters) in (N_LETTERS, 2 * N_LETTERS)
        for _, question, given in asked:
            what, place = question.split()
            at = places.index(place)
            assert given == (letters[at] if what == "letter" else "".join(letters[at : at + N_LETTERS]).lower())
            kinds[what] += 1
    assert kinds["letter"] > kinds["word"] > 60


def test_the_words_are_of_one_length_and_common_ones_come_first():
    assert len(set(WORDS)) == len(WORDS) == 100 and {len(word) for word in WORDS} == {N_LETTERS}
    read = Counter(
        given
        for picture in pictures("train", "reading", 200)
        for _, question, given in picture.questions
        if question.startswith("word")
    )
    assert read[WORDS[0]] > 3 * read[WORDS[9]]


def test_the_same_numbers_draw_the_same_picture():
    for suite in SUITES:
        for first, second in zip(pictures("train", suite, 5), pictures("train", suite, 5), strict=True):
            assert np.array_equal(first.pixels_HWC, second.pixels_HWC) and first.questions == second.questions
        other = draw("train", suite, 0, kb=KB, seed=4, n_questions=8)
        assert not np.array_equal(other.pixels_HWC, first.pixels_HWC)


def test_no_picture_is_in_two_splits():
    drawn = [
        picture.pixels_HWC.tobytes()
        for split in ("train", "development", "test")
        for suite in SUITES
        for picture in pictures(split, suite)
    ]
    assert len(set(drawn)) == len(drawn)


def test_digits_held_out_are_never_in_train(monkeypatch):
    pools = [
        {image.tobytes() for digit in range(10) for image in _digit_pool(digit, held_out)} for held_out in (False, True)
    ]
    assert not pools[0] & pools[1]
    assert len(pools[0]) + len(pools[1]) == 1797
    held_out, original = [], scenes.glyph_mask
    monkeypatch.setattr(
        scenes, "glyph_mask", lambda *args, **given: held_out.append(given["held_out"]) or original(*args, **given)
    )
    for split in ("train", "development", "test"):
        held_out.clear()
        pictures(split, "reasoning", 10)
        assert set(held_out) == {split != "train"}


def test_every_word_is_in_the_vocabulary(words):
    unknown = words.convert_tokens_to_ids("<unknown>")
    kb = KnowledgeBase.draw(0, n_relations=len(RELATIONS))
    said = set()
    for suite in SUITES:
        for picture in pictures("train", suite, 60, kb=kb, n_questions=16):
            said.update(f"{question} {given}" for _, question, given in picture.questions)
    for index in range(200):
        caption, asked = describe_scene(kb, np.random.default_rng(index), n_questions=16)
        said.update([caption, *(f"{question} {given}" for _, question, given in asked)])
    known = {word for text in said for word in text.split()}
    assert not [word for word in known if words.convert_tokens_to_ids(word) in (unknown, None)]
    assert not [word for word in known if words(word)["input_ids"] == [unknown]]
    assert words.decode(words("<image> owner red <end>")["input_ids"]) == "<image> owner red <end>"


@pytest.fixture(scope="module")
def settings():
    text = TextSettings(records=40, reading_share=0.3)
    return DataSettings(
        source="miniature", seed=5, n_relations=3, questions_per_image=6, images={"test": 12}, text=text
    )


def test_a_split_on_disk_is_what_was_drawn(settings, tmp_path):
    draw_split(tmp_path / "test", split="test", settings=settings)
    data = Dataset(tmp_path / "test")
    kb = KnowledgeBase.draw(5, n_relations=3)
    labels = np.load(tmp_path / "test" / "patch_labels.npz")
    assert len(data.records) == len(data.image_names) == 12
    for row, record in enumerate(data.records):
        suite = SUITES[row % 2]
        picture = draw("test", suite, row // 2, kb=kb, seed=5, n_questions=6)
        assert data.image_row(record) == row and record.suite == suite
        assert np.array_equal(data.image(row), picture.pixels_HWC)
        assert tuple(zip(record.kinds, record.questions, record.answers, strict=True)) == picture.questions
        assert np.array_equal(labels["glyphs"][row], picture.glyph_PP)
        assert np.array_equal(labels["colors"][row], picture.color_PP)


def test_the_corpus_has_the_share_of_reading_that_was_asked(settings, tmp_path):
    write_corpus(tmp_path / "text", settings=settings)
    suites = [record.suite for record in Dataset(tmp_path / "text").records]
    assert Counter(suites) == {"reading": 12, "reasoning": 28}
    for start in range(0, 40, 10):  # spread evenly
        assert suites[start : start + 10].count("reading") == 3
    assert all(len(record.questions) == 6 for record in Dataset(tmp_path / "text").records)


def test_drawing_again_gives_the_same_files(settings, tmp_path):
    for name in ("a", "b"):
        draw_split(tmp_path / name / "test", split="test", settings=settings)
        write_corpus(tmp_path / name / "text", settings=settings)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_knowledge_is_drawn_once_from_its_seed():
    again = KnowledgeBase.draw(3, n_relations=4)
    assert all(np.array_equal(getattr(again, name), getattr(KB, name)) for name in ("facts", "owners", "likes"))
    assert not np.array_equal(KnowledgeBase.draw(4, n_relations=4).facts, KB.facts)
    assert KB.facts.shape == (len(GLYPHS), len(COLORS), 4) and KB.likes.shape == (len(NAMES), 4)
    assert len(set(RELATIONS)) == len(RELATIONS) and len(set(VALUES)) == len(VALUES) and len(set(NAMES)) == len(NAMES)
