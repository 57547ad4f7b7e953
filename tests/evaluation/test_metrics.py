"""Metrics: values worked out by hand from the papers' definitions, and independent references."""

import random
import re
from functools import cache

import pytest

from vlmlaw.errors import UserError
from vlmlaw.evaluation.metrics import (
    METRICS,
    Question,
    Verdict,
    anls,
    chosen_letter,
    edit_distance,
    exact_match,
    metric_called,
    relaxed_match,
    vqa_accuracy,
    vqa_plain,
    yes_or_no,
)


def question(*answers, options=()):
    return Question("q1", "What is it?", answers, options=options)


@pytest.mark.parametrize(
    ("said", "right"),
    [("Dog.", 1), (" the  DOG ", 0), ("dog!", 1), ("do-g", 1), ("dogs", 0), ("", 0), ("hot dog", 0), ("cat", 1)],
)
def test_exact_match(said, right):
    assert exact_match(said, ["dog", "Cat"]) == right


OPTIONS = ("a dog", "two cats", "a red bird", "none of these")


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(C)", "C"),
        ("C. a red bird", "C"),
        ("D) none", "D"),
        ("A: because it barks", "A"),
        ("The answer is B.", "B"),
        ("the correct option: (d)", "D"),
        ("I think it is C because of the wings", "C"),
        ("A dog", "A"),
        ("a dog", "A"),
        ("Two cats!", "B"),
        ("It shows a red bird on a tree.", "C"),
        ("A red dog", None),  # an article, and no option
        ("It is either B or C", None),
        ("the answer is B, no, the answer is C", None),
        ("a dog and two cats", None),
        ("E", None),
        ("", None),
    ],
)
def test_the_option_that_a_reply_names(said, letter):
    assert chosen_letter(said, OPTIONS) == letter


def test_multiple_choice_takes_a_letter_or_a_text_as_the_answer():
    judge = METRICS["multiple_choice"].judge
    assert judge("B", question("two cats", options=OPTIONS)) == Verdict(0.0)
    assert judge("two cats", question("B", options=OPTIONS)) == Verdict(0.0)
    assert judge("C", question("B", options=OPTIONS)) == Verdict(1.0)
    assert judge("hard to say", question("B", options=OPTIONS)) == Verdict(1.0)
    # Options that are letters themselves: the text wins over the place.
    assert judge("B", question("C", options=("C", "A"))) == Verdict(1.0)


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Yes, there is a dog.", "yes"),
        ("No, yes would be wrong", None),
        ("There is no dog. Yes?", "no"),
        ("yesterday", None),
        ("", None),
    ],
)
def test_yes_or_no(said, reply):
    assert yes_or_no(said) == reply


def test_f1_as_scikit_learn_has_it():
    from sklearn.metrics import f1_score

    wanted = ["yes", "yes", "yes", "no", "no", "yes", "no", "no", "no", "yes"]
    said = ["Yes", "no", "yes.", "Yes", "no", "yes", "No", "yes", "no", "no"]
    verdicts = [METRICS["yes_no_f1"].judge(s, question(w)) for s, w in zip(said, wanted, strict=True)]
    lost, weight = sum(v.lost for v in verdicts), sum(v.weight for v in verdicts)
    expected = f1_score([w == "yes" for w in wanted], [yes_or_no(s) == "yes" for s in said])
    assert 1 - lost / weight == pytest.approx(expected, rel=1e-12)
    # By hand: TP 3, FP 2, FN 2.
    assert (lost, weight) == (4, 10)


def test_a_reply_that_is_neither_yes_nor_no_counts_against():
    assert METRICS["yes_no_f1"].judge("maybe", question("no")) == Verdict(1.0, 1.0)
    assert METRICS["yes_no"].judge("maybe", question("no")) == Verdict(1.0)
    assert METRICS["yes_no"].judge("No", question("no")) == Verdict(0.0)


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("100", "105", 1),  # 5 / 105 = 4.8 %
        ("99", "105", 0),  # 5.7 %
        ("95", "100", 1),  # just 5 %
        ("94.9", "100", 0),
        ("-10", "10", 0),
        ("52%", "0.5", 1),  # a percentage is a hundredth
        ("50", "50%", 0),
        ("0", "0.0", 1),  # no tolerance around nothing
        ("0.01", "0", 0),
        ("USA", "usa", 1),
        ("U.S.A.", "usa", 0),
        ("1,000", "1000", 0),  # as in ChartQA's own script, which reads no thousands separators
        ("Blue", "Red", 0),
    ],
)
def test_relaxed_numbers(said, answer, right):
    assert relaxed_match(said, [answer]) == right


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Two dogs.", "2 dogs"),
        ("a  man\nand an apple", "man and apple"),
        ("dont", "don't"),
        ("shouldnt've", "shouldn't've"),
        ("shouldn'tve", "shouldn't've"),
        ("well", "well"),  # another word
        ("3.5", "3.5"),
        ("10,000", "10000"),
        ("black/white", "black white"),
        ("yes, it is", "yes it is"),
        ("ice-cream", "ice cream"),
        ("none", "0"),
        ("St. Mary", "st mary"),
    ],
)
def test_the_normalisation_of_vqa(text, expected):
    assert vqa_plain(text) == expected


def test_soft_accuracy_by_hand():
    """Ten annotators: with k of them in agreement, k leave-one-outs have k - 1 matches and 10 - k have k."""
    others = [f"other {i}" for i in range(10)]
    expected = {0: 0, 1: 9 * (1 / 3) / 10, 2: (2 * (1 / 3) + 8 * (2 / 3)) / 10, 3: (3 * (2 / 3) + 7) / 10, 4: 1, 10: 1}
    for n_same, accuracy in expected.items():
        answers = ["The Dog"] * n_same + others[n_same:]
        assert vqa_accuracy("dog!", answers) == pytest.approx(accuracy, abs=1e-12), n_same


def test_anls_by_hand():
    assert anls("Hello", ["hello"]) == 1
    assert anls("helo", ["hello"]) == pytest.approx(1 - 1 / 5)
    assert anls("hxxlo", ["hello", "helo"]) == pytest.approx(1 - 2 / 5)  # the best of both: 2 of 5, and 2 of 5
    assert anls("hexx", ["hell"]) == 0.5  # just not too far
    assert anls("hxxx", ["hell"]) == 0
    assert anls("", ["hello"]) == 0
    assert anls("", [""]) == 1


def test_edit_distance_as_its_recursive_definition_has_it():
    @cache
    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        change = distance(a[1:], b[1:]) + (a[0] != b[0])
        return min(change, distance(a[1:], b) + 1, distance(a, b[1:]) + 1)

    words = ["", "a", "kitten", "sitting", "saturday", "sunday", "hello world", "ello wurld!"]
    for a in words:
        for b in words:
            assert edit_distance(a, b) == distance(a, b)
    assert edit_distance("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("multiple_choice", question("B"), "two options or more"),
        (
            "multiple_choice",
            question("E", options=OPTIONS),
            "'E' is neither an option nor one of the letters A, B, C, D",
        ),
        ("multiple_choice", question("A", "B", options=OPTIONS), "and one answer"),
        ("yes_no", question("true"), "expected one, yes or no"),
        ("yes_no_f1", question("yes", "no"), "expected one, yes or no"),
        ("vqa", question("dog"), "found 1 answers"),
    ],
)
def test_questions_that_a_metric_cannot_judge(name, asked, message):
    with pytest.raises(ValueError, match=message):
        METRICS[name].check(asked)


def test_questions_that_can_be_judged_pass():
    for name, asked in [
        ("multiple_choice", question("B", options=OPTIONS)),
        ("yes_no", question("Yes")),
        ("vqa", question(*"abcd")),
        ("anls", question("x")),
    ]:
        assert METRICS[name].check(asked) is None


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match=r"no metric is called 'bleu'; there are exact_match.*anls"):
        metric_called("bleu")


# Thousands of made-up replies, each metric beside what its authors' script computes.

WORDS = """
yes no not No Yes the a an two three none dont shes it's x-ray U.S. 3.5 1,000 cat, dog/cat ten. [b] none! 'twas
""".split()  # noqa: SIM905
N_MADE_UP = 3000


def made_up_texts(seed):
    rng = random.Random(seed)
    while True:
        yield "".join(
            rng.choice(WORDS) + rng.choice([" ", " ", "  ", ". ", ", ", "\n"]) for _ in range(rng.randint(0, 5))
        )


def vqa_script(said, answers):
    """The definition of GT-Vision-Lab/VQA's vqaEval.py, annotators' answers normalised as the reply is."""

    def normalise(text):
        text = text.replace("\n", " ").replace("\t", " ").strip()
        out = text
        for mark in ';/[]"{}()=+\\_-><@`,?!':
            beside_space = mark + " " in text or " " + mark in text
            out = out.replace(mark, "" if beside_space or re.search(r"\d,\d", text) else " ")
        out = re.sub(r"\.(?!\d)", "", out)
        digits = {"none": "0", "two": "2", "three": "3", "ten": "10"}
        words = [digits.get(word, word) for word in out.lower().split()]
        apostrophes = {"dont": "don't", "twas": "'twas"}  # of those among WORDS; "shes" is not in the script's table
        return " ".join(apostrophes.get(word, word) for word in words if word not in ("a", "an", "the"))

    normal, reply = [normalise(answer) for answer in answers], normalise(said)
    shares = []
    for left_out in range(len(normal)):
        others = normal[:left_out] + normal[left_out + 1 :]
        shares.append(min(1, others.count(reply) / 3))
    return sum(shares) / len(shares)


def test_vqa_accuracy_as_the_official_script_has_it():
    texts, rng, matched = made_up_texts(0), random.Random(1), 0
    for _ in range(N_MADE_UP):
        pool = [next(texts) for _ in range(3)]
        answers = [rng.choice(pool) for _ in range(10)]
        said = rng.choice([*pool, next(texts)])
        assert vqa_accuracy(said, answers) == pytest.approx(vqa_script(said, answers), abs=1e-12), (said, answers)
        matched += 0 < vqa_accuracy(said, answers) < 1
    assert matched > 100


def pope_script(said):
    """evaluate.py of RUCAIBox/POPE: the text before the first full stop, without commas, has the word No, no or not."""
    sentence = said.split(".")[0].replace(",", "")
    return "no" if any(word in ("No", "no", "not") for word in sentence.split(" ")) else "yes"


def test_pope_as_the_official_script_and_scikit_learn_have_it():
    from sklearn.metrics import f1_score

    texts, rng = made_up_texts(2), random.Random(3)
    said = [next(texts) for _ in range(N_MADE_UP)]
    wanted = [rng.choice(["yes", "no"]) for _ in said]
    verdicts = [METRICS["pope"].judge(s, question(w)) for s, w in zip(said, wanted, strict=True)]
    expected = f1_score([w == "yes" for w in wanted], [pope_script(s) == "yes" for s in said])
    assert 1 - sum(v.lost for v in verdicts) / sum(v.weight for v in verdicts) == pytest.approx(expected, rel=1e-12)
    assert [v.is_read for v in verdicts] == [yes_or_no(s) is not None for s in said]


def test_pope_takes_what_is_neither_as_yes_and_says_that_it_was_not_read():
    assert METRICS["pope"].judge("maybe", question("yes")) == Verdict(0.0, 2.0)
    assert not METRICS["pope"].judge("maybe", question("yes")).is_read
    assert METRICS["yes_no_f1"].judge("maybe", question("yes")) == Verdict(1.0, 1.0)


def chartqa_script(said, answer):
    """Relaxed correctness as pix2struct's metrics.py defines it, of one answer."""

    def number(text):
        try:
            return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
        except ValueError:
            return None

    found, wanted = number(said), number(answer)
    if found is not None and wanted:
        return abs(found - wanted) / abs(wanted) <= 0.05
    return said.lower() == answer.lower()


def test_relaxed_accuracy_as_its_script_has_it():
    rng, right = random.Random(4), 0
    for _ in range(N_MADE_UP):
        wanted = rng.choice([1.0, 100.0, -3.0, 0.2, 1e6]) * rng.choice([1, 1.05, 0.95, 1.0501, 2])
        answer = rng.choice([f"{wanted:g}", f"{wanted:.2f}%", f"{wanted:e}", "Blue", "1,000", ""])
        said = rng.choice(
            [f"{wanted * rng.uniform(0.93, 1.07):.3f}", answer, answer.upper(), f"{wanted:g}%", "blue", "5%%"]
        )
        assert relaxed_match(said, [answer]) == chartqa_script(said, answer), (said, answer)
        right += chartqa_script(said, answer)
    assert 500 < right < N_MADE_UP - 500


@pytest.mark.parametrize("said", ["inf", "-inf", "nan", "Infinity", "1e999", "1_000"])
def test_what_is_no_finite_number_matches_none(said):
    assert relaxed_match("5", [said]) == 0 and relaxed_match(said, ["5"]) == 0
    assert relaxed_match(said, ["1000"]) == 0
    assert relaxed_match(said.upper(), [said]) == 1  # as text
    assert not METRICS["relaxed_numeric"].judge(said, question("5")).is_read


def anls_script(said, answers):
    """The challenge's evaluation script: distances of normalised texts over lengths of the texts as they are."""
    distances = []
    for answer in answers:
        distance = edit_distance(" ".join(answer.strip().lower().split()), " ".join(said.strip().lower().split()))
        length = max(len(answer.upper()), len(said.upper()))
        distances.append(distance / length if length else 0.0)
    best = 1 - min(distances)
    return best if best >= 0.5 else 0.0


def test_anls_as_the_challenges_script_has_it():
    texts, rng, between = made_up_texts(5), random.Random(6), 0
    for _ in range(N_MADE_UP // 4):
        answers = [next(texts) for _ in range(rng.randint(1, 3))]
        said = list(rng.choice([*answers, next(texts)]))
        for _ in range(rng.randint(0, 3)):
            said.insert(rng.randint(0, len(said)), rng.choice("abc "))
        assert anls("".join(said), answers) == anls_script("".join(said), answers)
        between += 0 < anls("".join(said), answers) < 1
    assert between > 50


def test_an_empty_reply_is_unread_by_every_metric():
    asked = {"multiple_choice": question("B", options=OPTIONS), "vqa": question(*"abcd")}
    for name, metric in METRICS.items():
        assert not metric.judge(" ", asked.get(name, question("yes"))).is_read, name
