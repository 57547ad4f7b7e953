"""How the templates of every page are read: text is escaped, and a name that is missing is an error."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vlmlaw.report.figures.style import mark_path

_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # Unicode Standard Annex 9, 2.1, 2.2 and 2.4
REPLACEMENT = "\ufffd"


def without_directions(text: str) -> str:
    """The text with a visible sign for each mark that turns the direction of what follows it.

    A name with such a mark would show the numbers of its sentence backwards.

    >>> without_directions("7B\\u202e is 0.123")
    '7B\ufffd is 0.123'
    """
    return _DIRECTIONS.sub(REPLACEMENT, text)


def _finalized(value: Any) -> str:
    text = without_directions(str(value))
    return Markup(text) if isinstance(value, Markup) else text


def environment() -> Environment:
    """Jinja's environment of the package's templates."""
    made = Environment(
        loader=PackageLoader("vlmlaw.report"),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["mark_path"] = mark_path
    return made
