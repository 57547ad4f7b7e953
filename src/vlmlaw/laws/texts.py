"""What the texts in a table mean: numbers with units, marks and signs as people write them, and sizes of models."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.latex import plain

UNITS = {"billions": 1.0, "millions": 1e-3, "count": 1e-9}
LARGEST_COUNT = 1e5  # plain sizes from here on count parameters: no model has so many billions
# What programs write for what they lack, and what people write.
_LOST = frozenset({"", "nan", "none", "null", "nil", "#n/a", "#value!", "#div/0!"})
_MARKS = frozenset([*"-–—―−/?.…x✗✘×", "--", "---", "..", "...", "n/a", "na", "n.a.", "tbd", "tba", "oom"])
# Mixtures of experts whose name does not tell how much they share: total and active parameters in billions, as
# published by Mistral AI (Mixtral 8x7B: 46.7 and 12.9; Mixtral 8x22B: 141 and 39).
MIXTURES = {"8x7b": (46.7, 12.9), "8x22b": (141.0, 39.0)}
_SUFFIX = {"t": 1e3, "b": 1.0, "g": 1.0, "m": 1e-3, "k": 1e-6}
_NUMBER = r"[-+−]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_PLUS_MINUS = re.compile(rf"({_NUMBER})\s*%?\s*(?:±|\+/-|\+-|\\pm)\s*({_NUMBER})\s*(%?)")
_GAIN = re.compile(rf"({_NUMBER}\s*%?)\s*(?:\((?:[-+−↑↓△▲▼].*?|.*?[↑↓]|[\d.]+\s*%)\)|[↑↓]\s*[\d.]*\s*%?)")
_MEASURE = re.compile(rf"({_NUMBER})\s*([a-zA-Zµμ/]+)")
_PAIR = re.compile(rf"({_NUMBER})\s*%?\s*/\s*({_NUMBER})\s*%?")
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "min": 60.0, "h": 3600.0}
_ACTIVE = re.compile(r"(\d+(?:\.\d+)?)\s*b[-_ /(]*a(?:ctive)?\s*(\d+(?:\.\d+)?)\s*b", re.IGNORECASE)
_MIXTURE = re.compile(r"\d+\s*[x×]\s*\d+(?:\.\d+)?\s*b", re.IGNORECASE)
_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)\s*([bm])(?![A-Za-z0-9])", re.IGNORECASE)


_TOKENS_IN_NAME = re.compile(
    r"(?<![\d.])(\d+)\s*-?(?:visual |image |vision |vis\. ?)?(?:tokens?|tok)\b|\bV\s*=\s*(\d+)"
    r"|(?<=[-_ (])V(\d{2,4})(?![.\d])",
    re.IGNORECASE,
)


def without_markup(text: str) -> str:
    """A field without Markdown, HTML and footnote marks: links become their text, bold loses its stars.

    >>> without_markup("[**64.2**](https://x.org)<sup>1</sup>")
    '64.2'
    """
    if not re.search(r"[*_`\[<~†‡§\\&^$\u00a0\u2009\u202f\u2b50-\U0001ffff\ufe0f]", text):
        return text.strip()
    text = re.sub(r"[\u00a0\u2009\u202f]", " ", text)
    text = re.sub(r"[\u2b50\ufe0f\U0001f000-\U0001ffff]", "", text)  # medals and stars
    if text.count("$") > 1 or re.search(r"\\[a-zA-Z,;]", text):
        text = plain(text)
    text = re.sub(r"<sup>.*?</sup>", "", text, flags=re.IGNORECASE)
    text = re.sub(r"<br\s*/?>", " ", text, flags=re.IGNORECASE)
    text = re.sub(
        r"</?(?:a|b|i|u|s|em|strong|sub|sup|small|big|span|font|code|del|ins|mark|center|kbd|p)(?:\s[^<>]*)?>", "", text
    )
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(?<=\S)\s*\[\^?[\w†*]{1,3}\]$", "", text.strip())  # footnotes and references, [^1] and [12]
    text = re.sub(r"(\*\*|__|~~|`)(.+?)\1", r"\2", text)
    text = re.sub(r"^([*_])(.+)\1$", r"\2", text.strip())
    text = text.replace("&nbsp;", " ").replace("&amp;", "&").replace("\\_", "_").replace("\\%", "%")
    text = re.sub(r"(?<=[\d%)])\s*\^\{?[\w*†‡]{1,3}\}?$", "", text)
    return re.sub(r"(?<=[\w%)])\s*[*†‡§]+$", "", text).strip()


def is_missing(text: str) -> bool:
    """Whether a field says that there is no value.

    >>> [is_missing(text) for text in ("--", "N/A", "0", "")]
    [True, True, False, True]
    """
    return text.lower() in _LOST or is_left_out(text)


def is_left_out(text: str) -> bool:
    """Whether a field is marked by hand as without a value, as `--` and N/A; a blank one may have been lost.

    >>> is_left_out("N/A"), is_left_out("")
    (True, False)
    """
    return text.lower() in _MARKS


def clean(raw: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table without markup, its numbers with a decimal point and without separators of thousands.

    Raises UserError where commas are decimal in one place and separate thousands in another, or could be either.
    """
    names = [name for name in raw.columns if name != "line"]
    cleaned = raw.assign(**{name: raw[name].map(_once(without_markup)) for name in names})
    texts = {text for name in names for text in cleaned[name].unique() if re.search(r"\d[., ']\d", text)}
    decimal = _decimal_comma(texts, source)
    fix = _once(lambda text: _plain_number(text, decimal=decimal))
    return cleaned.assign(**{name: cleaned[name].map(fix) for name in names})


def _once(function: Callable[[str], str]) -> Callable[[str], str]:
    known: dict[str, str] = {}

    def remembered(text: str) -> str:
        if text not in known:
            known[text] = function(text)
        return known[text]

    return remembered


def _decimal_comma(texts: set[str], source: str) -> bool:
    """Whether the commas in the numbers of a table are decimal."""
    parts = {part for text in texts if not re.search(r"[A-Za-z]{3,}", text) for part in re.split(r"[\s/±()%]+", text)}
    commas = {part for part in parts if re.fullmatch(r"[-+]?\d+(,\d+)+(\.\d+)?[a-zA-Z]?", part)}
    thousands = {part for part in commas if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?[a-zA-Z]?", part)}
    decimals = commas - thousands
    points = {part for part in parts if re.fullmatch(r"[-+]?\d*\.\d+", part)}
    points -= {part for part in points if re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", part) and decimals}
    sure = {part for part in thousands if part.count(",") > 1 or "." in part}
    if decimals and (points or sure):
        shown = f"{sorted(decimals)[0]!r} beside {sorted(points | sure)[0]!r}"
        raise UserError(f"{source} has decimal commas and decimal points ({shown}); write every number in one way")
    return bool(decimals)


def _plain_number(text: str, *, decimal: bool) -> str:
    if not re.search(r"\d[., ']\d", text) or re.search(r"[A-Za-z]{3,}", text):
        return text
    if decimal:
        thousands = r"(?<![\d.,])([1-9]\d{0,2})((?:\.\d{3})+)(?=,|\D|$)"
        text = re.sub(thousands, lambda m: m[1] + m[2].replace(".", ""), text)
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    else:
        text = re.sub(r"(?<![\d.,])([1-9]\d{0,2})((?:,\d{3})+)(?![\d,])", lambda m: m[1] + m[2].replace(",", ""), text)
    return re.sub(r"(?<![\d.,])(\d{1,3})((?:[ ']\d{3})+)(?![\d])", lambda m: m[1] + re.sub("[ ']", "", m[2]), text)


def number(text: str) -> tuple[float, float, str]:
    """A field as (value, standard error or nan, unit): unit is "%", a word such as "ms", or "".

    The value of a field that says it is missing is nan. Raises ValueError for other text.

    >>> number("59.8 ± 0.4"), number("0.138s")[2], number("76.1 (+2.3)")[0]
    ((59.8, 0.4, ''), 's', 76.1)
    """
    text = text.strip()
    if is_missing(text):
        return np.nan, np.nan, ""
    try:
        return float(text) if "_" not in text else _refuse(text), np.nan, ""
    except ValueError:
        pass
    text = text.replace("−", "-").lstrip("~≈ ")
    if found := _PLUS_MINUS.fullmatch(text):
        return float(found[1]), float(found[2]), "%" if "%" in text else ""
    if found := _GAIN.fullmatch(text):
        text = found[1].strip()
    if text.endswith("%"):
        return float(text[:-1]), np.nan, "%"
    if found := _MEASURE.fullmatch(text):
        return float(found[1]), np.nan, found[2]
    return float(text) if "_" not in text else _refuse(text), np.nan, ""


def _refuse(text: str) -> float:
    raise ValueError(text)


def is_pair(text: str) -> bool:
    """Whether a field holds two numbers, as `59.8/59.1`."""
    return bool(_PAIR.fullmatch(text))


def pair(text: str) -> tuple[str, str]:
    """The two numbers of such a field; one number is the first, with none second."""
    found = _PAIR.fullmatch(text)
    return (found[1], found[2]) if found else (text, "")


def is_number(text: str) -> bool:
    """Whether a field is a number (with its unit) or says that it is missing."""
    try:
        number(text)
    except ValueError:
        return is_pair(text)
    return True


def measures(column: pd.Series) -> pd.Series:
    """A further column as numbers where every field is one, in one unit (times in seconds); else unchanged."""
    numeric = pd.to_numeric(column, errors="coerce")
    texts = column.map(lambda value: "" if value is None or value != value else str(value))
    if (numeric.notna() | texts.eq("")).all():
        return numeric
    try:
        parts = {text: number(text) for text in texts.unique()}
    except ValueError:
        return column
    units = {unit.lower() for value, _, unit in parts.values() if value == value}
    if units <= set(_SECONDS) and len(units) > 1:
        return texts.map(lambda text: parts[text][0] * _SECONDS.get(parts[text][2].lower(), 1.0)).astype(float)
    return texts.map(lambda text: parts[text][0]).astype(float) if len(units) <= 1 else column


def sizes_in_name(text: str) -> tuple[float, float] | None:
    """Total and active parameters in billions that the name of a model states; None where it states none.

    Raises ValueError for a mixture of experts of unknown total.

    >>> sizes_in_name("Vicuna-7B-v1.5"), sizes_in_name("Qwen3-VL-30B-A3B"), sizes_in_name("CLIP")
    ((7.0, 7.0), (30.0, 3.0), None)
    """
    if found := _ACTIVE.search(text):
        return float(found[1]), float(found[2])
    if found := _MIXTURE.search(text):
        key = re.sub(r"\s", "", found[0].lower()).replace("×", "x")
        if key not in MIXTURES:
            raise ValueError(f"{found[0]!r} tells no total, as experts share layers; write it, as 46.7B-A12.9B")
        return MIXTURES[key]
    several = {float(value) * _SUFFIX[unit.lower()] for value, unit in _IN_NAME.findall(text)}
    if len(several) != 1:
        return None
    return (several.pop(),) * 2


def name_without_size(text: str) -> str:
    """A name without the sizes in it, to tell methods apart.

    >>> name_without_size("FastV-7B"), name_without_size("LLaVA-1.5-7B + MQT")
    ('FastV', 'LLaVA-1.5 + MQT')
    """
    for pattern in (_ACTIVE, _MIXTURE, _IN_NAME):
        text = re.sub(rf"[-_ (]*(?:{pattern.pattern})\)?", "", text, flags=re.IGNORECASE)
    return text.strip(" -_")


def tokens_in_name(text: str) -> float | None:
    """The visual tokens that a name or a heading states; None where it states none, or several.

    >>> tokens_in_name("Retain 192 tokens (33.3%)"), tokens_in_name("M3, V = 36"), tokens_in_name("LLaVA-1.5-7B")
    (192.0, 36.0, None)
    """
    found = {float(a or b or c) for a, b, c in _TOKENS_IN_NAME.findall(text)}
    return found.pop() if len(found) == 1 else None


def size(text: str, *, unit: str) -> tuple[float, float]:
    """Total and active parameters in billions of a field: a number in `unit`, 0.5B, 70m, 30B-A3B, 7B-Instruct.

    Raises ValueError for other text.
    """
    try:
        value = float(text)
    except ValueError:
        pass
    else:
        return (value * UNITS[unit],) * 2
    if found := re.fullmatch(r"([0-9.eE+-]+)\s*(?:([tbgmk])|([bm])illions?)(?:\s*param(?:eter)?s?)?", text.lower()):
        return (float(found[1]) * _SUFFIX[found[2] or found[3]],) * 2
    named = sizes_in_name(text)
    if named is None:
        raise ValueError("expected a number, or a size such as 7B")
    return named
