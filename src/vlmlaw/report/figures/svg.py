"""Embed SVG of matplotlib in an HTML page: no prolog, unique ids, colours that follow the theme of the page."""

import re
from collections.abc import Mapping

_PROLOG = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_STYLE = re.compile(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", re.DOTALL)
_NAMESPACES = re.compile(r'\sxmlns(:\w+)?="[^"]*"')
_SIZE = re.compile(r'(<svg[^>]*?)\swidth="[^"]*"', re.DOTALL)
_HEIGHT = re.compile(r'(<svg[^>]*?)\sheight="[^"]*"', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_LONG = re.compile(r"(\d+\.\d\d)\d+")
_FONT = re.compile(r"font: ([^;\"']*?px) 'DejaVu Sans'[^;\"]*")
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)
_USED = re.compile(r"""(?:href="#|url\(#)([^")]+)""")


def inline(text: str, *, name: str, title: str, colors: Mapping[str, str]) -> str:
    """The SVG to embed in a page. `name` makes its ids unique; `colors` maps a colour to the CSS that replaces it."""
    text = _PROLOG.sub("", text)
    for pattern in (_METADATA, _STYLE, _NAMESPACES, _COMMENT):
        text = pattern.sub("", text)
    text = _SIZE.sub(r"\1", text, count=1)
    text = _HEIGHT.sub(r"\1", text, count=1)
    used = set(_USED.findall(text))
    text = re.sub(r'\sid="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    # Coordinates are rounded; text between tags keeps its digits.
    text = _TAG.sub(lambda tag: _LONG.sub(r"\1", " ".join(tag[0].split())), text)
    text = re.sub(r">\s+<", "><", text)
    text = _FONT.sub(r"font: \1 var(--font)", text)
    for color, replacement in colors.items():
        text = text.replace(color, replacement)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
