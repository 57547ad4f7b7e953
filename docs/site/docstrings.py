"""A Griffe extension: docstrings are plain text; this makes of it the Markdown that shows the same."""

import io
import re
import tokenize
from typing import Any

import griffe

ITEM = re.compile(r"[\w, ]+: ")  # `level: confidence level of every interval`, and its like below one another
CODE = re.compile(r"(`+[^`]+`+)")


class PlainDocstrings(griffe.Extension):
    """Rewrites each docstring before it is rendered."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
        elif obj.is_attribute and (comment := trailing_comment(obj.source)):
            obj.docstring = griffe.Docstring(as_markdown(comment), parent=obj)


def trailing_comment(source: str) -> str:
    """The comment at the end of a definition, which describes a constant or a field here."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source.strip()).readline))
    except (tokenize.TokenError, IndentationError):  # a part of a statement
        return ""
    return next((token.string.lstrip("# ") for token in tokens[::-1] if token.type == tokenize.COMMENT), "")


def as_markdown(text: str) -> str:
    """The docstring with examples fenced, described names as a list, and `<` as a character."""
    return "\n\n".join(_paragraph(paragraph) for paragraph in re.split(r"\n\s*\n", text))


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if lines[0].startswith("    "):
        return text  # code, by Markdown's rule
    if lines[0].startswith(">>> "):
        return f"```pycon\n{text}\n```"
    if any(line.startswith(">>> ") for line in lines):
        return text  # below the title of a section of examples, which Griffe knows
    items = [line for line in lines if ITEM.match(line)]
    if len(items) > 1 and ITEM.match(lines[0]) and all(line in items or line.startswith("    ") for line in lines):
        lines = [f"- **{line.replace(': ', ':** ', 1)}" if line in items else line for line in lines]
    return "\n".join(map(_escaped, lines))


def _escaped(line: str) -> str:
    parts = CODE.split(line)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
