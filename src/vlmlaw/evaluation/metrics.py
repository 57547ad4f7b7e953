"""Metrics of the common benchmarks, each as its authors define it.

A metric judges one reply at a time and returns the weight of its question and the part that was lost. The error of a
benchmark is the lost share of the total weight, in [0, 1]: a mean, or 1 - F1. A reply that cannot be read is wrong;
nothing is guessed.
"""

import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from vlmlaw.errors import UserError
from vlmlaw.evaluation.multiple_choice import LETTERS, chosen_letter, right_letter

__all__ = ["LETTERS", "METRICS", "Metric", "Question", "Verdict", "chosen_letter", "metric_called"]

WORD_OR_PHRASE = "Answer the question using a single word or phrase."  # LLaVA-1.5's (arXiv 2310.03744, table 7)
OPTION_LETTER = "Answer with the option's letter from the given choices directly."  # likewise


@dataclass(frozen=True)
class Question:
    """One question of a benchmark. `answers` are those that count as right, or those of its human annotators.

    Its images stand before the text, unless `<image>` in the text says where each stands.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    image: str | None = None
    options: tuple[str, ...] = ()
    kind: str = ""
    more_images: tuple[str, ...] = ()  # those after the first

    @property
    def images(self) -> tuple[str, ...]:
        """The names of all images, in the order of their places."""
        return () if self.image is None else (self.image, *self.more_images)


@dataclass(frozen=True)
class Verdict:
    """The weight of a question, the part of it that a reply lost, and whether the reply could be read at all."""

    lost: float
    weight: float = 1.0
    is_read: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Metric:
    """A way to judge replies, with the instruction after a question that asks for the expected form of the reply.

    `check` raises ValueError for a question that it cannot judge.
    """

    judge: Callable[[str, Question], Verdict]
    instruction: str
    max_new_tokens: int
    check: Callable[[Question], None] = lambda question: None


# Exact match.


def plain(text: str) -> str:
    """The text in lower case without punctuation, spaces single: `ignore_case`, `ignore_punctuation` of lm-eval."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def exact_match(said: str, answers: Sequence[str]) -> float:
    """1 where the reply is one of the answers but for case, punctuation and spaces; so GQA is counted (1902.09506)."""
    return float(plain(said) in {plain(answer) for answer in answers})


# Multiple choice.


def judge_choice(said: str, question: Question) -> Verdict:
    letter = chosen_letter(said, question.options)
    return Verdict(float(letter != right_letter(question.options, question.answers)), is_read=letter is not None)


def _check_choice(question: Question) -> None:
    right_letter(question.options, question.answers)


# Yes or no.


def yes_or_no(said: str) -> str | None:
    """`yes` or `no` if the first sentence of the reply contains exactly one of them, else None."""
    first = re.split(r"[.!?\n]", said.strip(), maxsplit=1)[0]
    found = {word for word in plain(first).split() if word in ("yes", "no")}
    return found.pop() if len(found) == 1 else None


def pope_reply(said: str) -> str:
    """`no` if the text before the first full stop has the word No, no or not, else `yes`: POPE's own script.

    Li et al. 2023, arXiv 2305.10355; evaluate.py of github.com/RUCAIBox/POPE. So a reply that is neither is a yes.
    """
    words = said.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def f1_verdict(reply: str | None, answer: str) -> Verdict:
    """A question's part of 1 - F1 = (FP + FN) / (2 TP + FP + FN), `yes` being the positive class.

    A reply that is neither (None) counts as the wrong one.
    """
    if reply != answer:
        return Verdict(1.0, 1.0, is_read=reply is not None)
    return Verdict(0.0, 2.0 if answer == "yes" else 0.0)


def judge_yes_no(said: str, question: Question) -> Verdict:
    reply = yes_or_no(said)
    return Verdict(float(reply != _is_yes_no(question)), is_read=reply is not None)


def judge_pope(said: str, question: Question) -> Verdict:
    verdict = f1_verdict(pope_reply(said), _is_yes_no(question))
    return replace(verdict, is_read=yes_or_no(said) is not None)


def _check_yes_no(question: Question) -> None:
    if len(question.answers) != 1 or yes_or_no(question.answers[0]) is None:
        raise ValueError(f"found the answers {list(question.answers)}; expected one, yes or no")


def _is_yes_no(question: Question) -> str:
    answer = yes_or_no(question.answers[0])
    assert answer is not None  # _check_yes_no
    return answer


# Numbers.

RELATIVE_TOLERANCE = 0.05


def relaxed_match(said: str, answers: Sequence[str]) -> float:
    """1 where a number is within 5 % of an answer's, or other text is the answer's but for case.

    ChartQA's relaxed accuracy (Masry et al. 2022, arXiv 2203.10244, 5.1, after Methani et al. 2020, PlotQA). Scripts in
    use compare with an answer of 0 as text; here 0.0 is 0.
    """
    return float(any(_is_close(said, answer) for answer in answers))


def _is_close(said: str, answer: str) -> bool:
    number, wanted = _number(said), _number(answer)
    if number is not None and wanted:
        return abs(number - wanted) / abs(wanted) <= RELATIVE_TOLERANCE
    return said.strip().lower() == answer.strip().lower() or (number is not None and number == wanted)


def _number(text: str) -> float | None:
    """The finite number that a text stands for, a percentage divided by 100; None if it is not a number.

    >>> [_number(text) for text in ("-1.5e2", "50%", "inf", "1_000", "1,000")]
    [-150.0, 0.5, None, None, None]
    """
    found = re.fullmatch(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(%*)", text.strip())
    if not found or not math.isfinite(value := float(found[1])):
        return None
    return value / 100 if found[2] else value


def judge_number(said: str, question: Question) -> Verdict:
    """A reply to a question whose answers are all numbers is read if it is a number."""
    wants_number = all(_number(answer) is not None for answer in question.answers)
    is_read = _number(said) is not None if wants_number else bool(said.strip())
    return Verdict(1 - relaxed_match(said, question.answers), is_read=is_read)


# VQA's soft accuracy.

NUMBER_WORDS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBER_WORDS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
ARTICLES = {"a", "an", "the"}
# Contractions that people write with one apostrophe too few, as in the official script's table, which lacks those that
# are other words then (we'll, it's) and never meets its own Im, Ive, Id've, as it compares in lower case.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def _without_each_apostrophe(word: str) -> set[str]:
    return {word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"}


APOSTROPHES = {bare: word for word in CONTRACTIONS for bare in _without_each_apostrophe(word)}
APOSTROPHES["somebody'd"] = "somebodyd"  # the official table has this one the other way round


def vqa_plain(text: str) -> str:
    """A reply as the VQA evaluation compares it: lower case, number words as digits, no articles, no punctuation.

    Antol et al. 2015, arXiv 1505.00468, and Goyal et al. 2017, arXiv 1612.00837 (visualqa.org/evaluation). Between
    digits a point stays; punctuation goes where it stands beside a space or the text has a comma between digits, and
    becomes a space elsewhere.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip().lower()
    has_thousands = re.search(r"\d,\d", text) is not None
    out = text
    for mark in VQA_PUNCTUATION:
        drop = has_thousands or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if drop else " ")
    out = re.sub(r"\.(?!\d)", "", out)
    words = [NUMBER_WORDS.get(word, word) for word in out.split()]
    return " ".join(APOSTROPHES.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """min(1, number of other annotators with this answer / 3), averaged over leaving out each annotator in turn.

    The official script leaves annotators' answers as they are where all are the same; here they are always normalised,
    as in the evaluation of TextVQA.
    """
    reply, given = vqa_plain(said), [vqa_plain(answer) for answer in answers]
    n_same = given.count(reply)
    left_out = [n_same - (answer == reply) for answer in given]
    return sum(min(1.0, n / 3) for n in left_out) / len(given)


def _check_vqa(question: Question) -> None:
    if len(question.answers) < 4:
        raise ValueError(
            f"found {len(question.answers)} answers; VQA accuracy compares a reply with those of several annotators "
            "(ten in VQAv2, TextVQA), at least 4; with one right answer use exact_match"
        )


# ANLS.

ANLS_THRESHOLD = 0.5


def anls(said: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one reply: 1 - distance / longer length, 0 below a half.

    The best of the answers counts; case and spaces do not (Biten et al. 2019, arXiv 1907.00490, 5.1; DocVQA, arXiv
    2007.00398). As in the official script, exactly a half counts, which the paper's formula leaves out, and lengths are
    those of the texts as they were given, spaces included.
    """
    best = max(_similarity(said, answer) for answer in answers)
    return best if best >= ANLS_THRESHOLD else 0.0


def _similarity(a: str, b: str) -> float:
    longer = max(len(a.upper()), len(b.upper()))
    distance = edit_distance(*(" ".join(text.lower().split()) for text in (a, b)))
    return 1 - distance / longer if longer else 1.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements of characters."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


# The table.


def _of_answers(score: Callable[[str, Sequence[str]], float]) -> Callable[[str, Question], Verdict]:
    """A judge by a score of the reply and the answers; it can read all but an empty reply."""
    return lambda said, question: Verdict(1 - score(said, question.answers), is_read=bool(said.strip()))


METRICS: dict[str, Metric] = {
    "exact_match": Metric(_of_answers(exact_match), WORD_OR_PHRASE, 16),
    "multiple_choice": Metric(judge_choice, OPTION_LETTER, 16, _check_choice),
    "yes_no": Metric(judge_yes_no, WORD_OR_PHRASE, 16, _check_yes_no),
    "yes_no_f1": Metric(
        lambda said, question: f1_verdict(yes_or_no(said), _is_yes_no(question)), WORD_OR_PHRASE, 16, _check_yes_no
    ),
    "pope": Metric(judge_pope, WORD_OR_PHRASE, 16, _check_yes_no),
    "relaxed_numeric": Metric(judge_number, WORD_OR_PHRASE, 16),
    "vqa": Metric(_of_answers(vqa_accuracy), WORD_OR_PHRASE, 16, _check_vqa),
    "anls": Metric(_of_answers(anls), WORD_OR_PHRASE, 32),
}
F1_METRICS = ("yes_no_f1", "pope")  # their error is 1 - F1, which needs a question whose answer is yes


def metric_called(name: str) -> Metric:
    """The metric of this name. Raises UserError for an unknown name."""
    if name not in METRICS:
        raise UserError(f"no metric is called {name!r}; there are {', '.join(METRICS)}.")
    return METRICS[name]
