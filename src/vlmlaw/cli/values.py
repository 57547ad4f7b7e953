"""Values of options that several verbs read in one way."""

from collections.abc import Sequence

from vlmlaw.errors import UserError


def pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """NAME=VALUE as often as it was given. Raises UserError for one without '='."""
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise UserError(f"{option} {wrong[0]!r} has no '='; expected for example {option} score=accuracy")
    return {key.strip(): value.strip() for key, value in (text.split("=", 1) for text in texts)}


def points(texts: Sequence[str], *, option: str) -> dict[str, float]:
    """SUITE=POINTS as often as it was given. Raises UserError for what is no number."""
    found = {}
    for suite, text in pairs(texts, option=option).items():
        try:
            found[suite] = float(text)
        except ValueError:
            raise UserError(f"{option} {suite}={text}: expected a number of points, as in MME=2000") from None
    return found


def words(text: str) -> tuple[str, ...]:
    """A,B as its parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
