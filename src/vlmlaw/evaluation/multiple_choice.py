"""Which option of a multiple-choice question a reply names: by its letter, by its text, or none that can be told.

After MMBench's rules for reading a reply before another model is asked (Liu et al. 2023, arXiv 2307.06281, 4.2), in the
form of VLMEvalKit, and LLaVA's for ScienceQA ("B. dog"). Stricter: an article is no option ("the answer is a dog"),
two options named are none ("A or B"), what a reply denies it does not name ("not B"), and nothing is guessed.
"""

import re
import string
from collections.abc import Sequence
from functools import lru_cache

LETTERS = string.ascii_uppercase
ARTICLE_OR_PRONOUN = "AI"
QUOTES = r"[\"'“”‘’*`(\[{<]*"
# What follows the letter A or I where it is an option: the end, a mark, or a word that no noun phrase goes on with.
NO_NOUN = r"(?=[\"'“”‘’*`)\]}>]*\s*(?:$|[.:;)\]!?/&]|(?:and|or|nor|because|since|as|but|if|is|isn['’]t)\b))"
NO_NOUN_OR_COMMA = NO_NOUN.replace("[.:;", "[.,:;")
DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|no|never|neither|neither\b[^.;]*\bnor|except|than|cannot be|instead of|rules? out|excludes?)|n['’]t)"
    rf"\s+(?:be\s+)?(?:an?\s+|the\s+)?(?:(?:option|choice|answer)\s+)?{QUOTES}$",
    flags=re.IGNORECASE,
)
DENIED_AFTER = re.compile(
    r"[\"'“”‘’*`)\]}>]*\s+(?:(?:is|are|was|were)\s+(?:not|wrong|incorrect|false)\b|(?:is|are|was|were)n['’]t\b)",
    flags=re.IGNORECASE,
)


def chosen_letter(said: str, options: Sequence[str]) -> str | None:
    """The option that a reply names, as a letter, or None where it names none, several, or cannot be read.

    >>> options = ("cat", "dog", "hot dog")
    >>> [chosen_letter(said, options) for said in ("B", "(b) dog", "The answer is a dog.", "A or B", "not A but a dog")]
    ['B', 'B', 'B', None, 'B']
    """
    said = said.strip()
    letters = LETTERS[: len(options)]
    whole = _only([i for i, option in enumerate(options) if said.casefold() == option.strip().casefold() != ""])
    if whole is None:
        whole = _only([i for i, option in enumerate(options) if (found := _pattern(option)) and found.whole(said)])
    if whole is not None:
        return letters[whole]
    first = _first_letter(said, letters)
    if first:
        return first
    rest, mentioned = _cut_out_texts(said, options)
    named = _cued(rest, letters) or _named(rest, letters)
    if named:
        affirmed = {letter for letter, denied in named if not denied}
        return affirmed.pop() if len(affirmed) == 1 else _of_texts(mentioned, letters) if not affirmed else None
    return _of_texts(mentioned, letters)


def right_letter(options: Sequence[str], answers: Sequence[str]) -> str:
    """The letter of the right option; the one answer is a letter or an option's text.

    Raises ValueError where it is neither, or a number that is the text of one option and the place of another.

    >>> right_letter(("cat", "dog"), ("dog",)), right_letter(("cat", "dog"), ("b",))
    ('B', 'B')
    """
    letters, texts = LETTERS[: len(options)], [option.strip() for option in options]
    if not 2 <= len(options) <= len(LETTERS) or len(answers) != 1:
        raise ValueError(
            f"multiple choice needs two options or more, {len(LETTERS)} at most, and one answer; found {len(options)} "
            f"options and {len(answers)} answers"
        )
    if len(set(texts)) < len(texts):
        raise ValueError(f"two of the options {texts} are the same")
    answer = answers[0].strip()
    if answer in texts:
        place = texts.index(answer)
        if answer.isdecimal() and int(answer) < len(texts) and int(answer) != place:
            raise ValueError(
                f"the answer {answer} is option {letters[place]}, and as a place, counted from 0, option "
                f"{letters[int(answer)]}; give the letter of the right one as `answer`"
            )
        return letters[place]
    if len(answer) == 1 and answer.upper() in letters:
        return answer.upper()
    raise ValueError(f"the answer {answer!r} is neither an option nor one of the letters {', '.join(letters)}")


class _Pattern:
    """An option's text as it may stand in a reply: its words and numbers, whatever stands between them."""

    def __init__(self, words: Sequence[str]):
        # A number is not part of a longer one: 5 is not in 3.5, nor in 55, nor in -5.
        first = r"(?<![\w.,])(?<!(?<!\w)[-−])" if words[0][-1:].isdigit() or words[0].endswith("%") else r"(?<!\w)"
        last = r"(?![\w%]|[.,]\d)" if words[-1][-1].isdigit() else r"(?!\w)"
        body = r"[\W_]+".join(map(re.escape, words))
        self._inside = re.compile(first + body + last, flags=re.IGNORECASE)
        self._whole = re.compile(rf"[\W_]*?{first}{body}{last}[\W_]*", flags=re.IGNORECASE)

    def whole(self, said: str) -> bool:
        return self._whole.fullmatch(said) is not None

    def places(self, said: str) -> list[tuple[int, int]]:
        return [found.span() for found in self._inside.finditer(said)]


@lru_cache(maxsize=4096)
def _pattern(option: str) -> _Pattern | None:
    """None for an option without any word or number, such as "+", which only the whole reply can be."""
    words = re.findall(r"(?<!\w)[-−+]?\d+(?:[.,]\d+)*%?|[^\W_]+(?:['’][^\W_]+)*", option)
    return _Pattern(words) if words else None


def _only(found: Sequence[int]) -> int | None:
    return found[0] if len(found) == 1 else None


def _first_letter(said: str, letters: str) -> str | None:
    """The letter that the reply is or begins with: "b", "(B)", "**B**", "B. dog"; not where another follows it."""
    any_case = letters + letters.lower()
    alone = re.fullmatch(rf"[\W_]*([{any_case}])[\W_]*", said)
    if alone:
        return alone[1].upper()
    begins = re.match(rf"{QUOTES}([{any_case}])[*\"'”]*[)\].:](?!\w)", said)
    if not begins:
        return None
    another = re.match(
        rf"[\s,;/&)\].:*]*(?:(?:and|or|nor)\b)?\s*{QUOTES}([{letters}])(?![\w'’-])", said[begins.end() :]
    )
    follows_noun = (
        another
        and another[1] in ARTICLE_OR_PRONOUN
        and not re.match(NO_NOUN_OR_COMMA, said[begins.end() + another.end() :])
    )
    return begins[1].upper() if not another or follows_noun else None


Named = list[tuple[str, bool]]  # letters, and whether the reply denies them


def _cued(said: str, letters: str) -> Named:
    """Letters behind "answer", "option" or "choice", and those that are listed with them."""
    any_case, found = letters + letters.lower(), Named()
    cue = re.compile(
        rf"\b(?P<cue>answer|option|choice)s?(?P<is>\s+(?:is|would be|should be|must be))?\s*[:=]?\s*{QUOTES}"
        rf"(?P<letter>[{any_case}])(?![\w'’-])",
        flags=re.IGNORECASE,
    )
    for match in cue.finditer(said):
        letter, after = match["letter"], said[match.end() :]
        if letter.upper() not in letters:
            continue
        is_noun = letter.upper() in ARTICLE_OR_PRONOUN and not re.match(NO_NOUN_OR_COMMA, after)
        named_so = match["cue"].lower() != "answer" and not match["is"] and letter.isupper()  # "option A looks right"
        if is_noun and not named_so:
            continue
        start = match.start() if named_so else match.start("letter")
        found.append((letter.upper(), _is_denied(said, start, match.end())))
        found += _listed(said, match.end(), letters)
    return found


def _listed(said: str, at: int, letters: str) -> Named:
    """Letters that follow one: "B or C", "B/C", "B, C"."""
    chain = re.compile(
        rf"[*\"'”’)\]]*\s*(?:[,/&;]\s*|\b(?:and|or|nor|maybe|perhaps|possibly|also)\b\s*)+(?:option\s+)?{QUOTES}([{letters}])(?![\w'’-])"
    )
    found = Named()
    while (match := chain.match(said, at)) and _is_letter(said, match, letters):
        found.append((match[1], _is_denied(said, match.start(1), match.end())))
        at = match.end()
    return found


def _named(said: str, letters: str) -> Named:
    """Capital letters that stand alone, and letters of either case in parentheses."""
    any_case = letters + letters.lower()
    single = re.compile(rf"[(\[]([{any_case}])[)\]]|(?<![\w'’.+-])([{letters}])(?![\w'’+-]|\.\w)")
    return [
        ((match[1] or match[2]).upper(), _is_denied(said, match.start(), match.end()))
        for match in single.finditer(said)
        if match[1] or _is_letter(said, match, letters)
    ]


def _is_letter(said: str, match: re.Match[str], letters: str) -> bool:
    """Whether a capital is an option, and neither the article nor the pronoun."""
    letter = match[match.lastindex or 0]
    if letter not in ARTICLE_OR_PRONOUN:
        return True
    return re.match(NO_NOUN if letter == "I" else NO_NOUN_OR_COMMA, said[match.end() :]) is not None


def _is_denied(said: str, start: int, end: int) -> bool:
    return DENIED_BEFORE.search(said[:start]) is not None or DENIED_AFTER.match(said, end) is not None


CUT = "\N{HORIZONTAL ELLIPSIS}"  # stands where an option's text stood


def _cut_out_texts(said: str, options: Sequence[str]) -> tuple[str, Named]:
    """The reply without the options' texts, the longest cut first ("hot dog" before "dog"), and which were there."""
    mentioned: Named = []
    for index in sorted(range(len(options)), key=lambda i: -len(options[i])):
        pattern = _pattern(options[index])
        if pattern is None or (len(options[index].strip()) < 2 and not options[index].strip().isdigit()):
            continue  # a single letter is rather an option's name than its text
        for start, end in reversed(pattern.places(said)):
            mentioned.append((LETTERS[index], _is_denied(said, start, end)))
            said = said[:start] + CUT + said[end:]
    return said, mentioned


def _of_texts(mentioned: Named, letters: str) -> str | None:
    affirmed = {letter for letter, denied in mentioned if not denied}
    return affirmed.pop() if len(affirmed) == 1 else None
