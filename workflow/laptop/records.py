"""Pictures, conversations and questions of the laptop experiment: flags with capitals, and drawn shapes.

A flag's picture is never the same twice: turned, cut, lit otherwise, on another ground. Capitals of a quarter of the
countries are never trained on, so that asking for them needs the country from the picture and the rest from the LLM.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance

ASK_COUNTRY = "Which country has this flag?"
ASK_CAPITAL = "What is the capital of the country that has this flag?"
ASK_SHAPE = "What shape is in the picture?"
SIDE = 224
SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True)
class Country:
    """A country with its flag; `held_out`: its capital is only asked for, never told."""

    code: str
    name: str
    capital: str
    flag: Image.Image
    held_out: bool


def read_countries(flags: Path, facts: Path, *, n: int) -> list[Country]:
    """The n most populous countries of which there are flag, short name and capital, every fourth of them held out."""
    names: dict[str, str] = json.loads(_member(flags, "countries.json"))
    known = {}
    for path in sorted(facts.glob("*.json")):
        fact = json.loads(path.read_text(encoding="utf-8"))
        known[fact.get("ISO", {}).get("alpha2", "")] = fact
    rows = [
        (fact.get("population") or 0, code, names[code], fact["capital"])
        for code, fact in known.items()
        if fact.get("capital") and names.get(code, "").replace(" ", "").isalpha()
    ]
    rows = sorted(rows, reverse=True)[:n]
    return [
        Country(code, name, capital, _opened(_member(flags, f"png250px/{code.lower()}.png")), index % 4 == 3)
        for index, (_, code, name, capital) in enumerate(rows)
    ]


def _member(package: Path, name: str) -> bytes:
    """A file of the npm package, packed (.tgz) or not."""
    if package.is_dir():
        return (package / name).read_bytes()
    with tarfile.open(package) as archive:
        file = archive.extractfile(f"package/{name}")
        assert file is not None
        return file.read()


def _opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    image.load()
    return image


def seen(flag: Image.Image, rng: random.Random) -> Image.Image:
    """The flag on a plain ground: turned by up to 10 degrees, moved, scaled, lighter or darker."""
    ground = Image.new("RGB", (SIDE, SIDE), tuple(rng.randrange(40, 216) for _ in range(3)))
    width = rng.randrange(SIDE * 6 // 10, SIDE * 95 // 100)
    scaled = flag.resize((width, max(8, round(width * flag.height / flag.width))), Image.Resampling.BICUBIC)
    turned = scaled.rotate(rng.uniform(-10, 10), expand=True, resample=Image.Resampling.BICUBIC)
    at = tuple((SIDE - side) // 2 + rng.randrange(-12, 13) for side in turned.size)
    ground.paste(turned, at, turned)
    return ImageEnhance.Brightness(ground).enhance(rng.uniform(0.75, 1.25))


@dataclass(frozen=True)
class Shape:
    """A drawn picture with its questions and answers, as easy-vqa has them."""

    path: Path
    turns: Sequence[tuple[str, str]]


def read_shapes(folder: Path, split: str) -> list[Shape]:
    """Pictures of a split, in order, with the questions that are asked of each."""
    by_image: dict[int, list[tuple[str, str]]] = {}
    for question, answer, image in json.loads((folder / split / "questions.json").read_text(encoding="utf-8")):
        by_image.setdefault(image, []).append((question[:1].upper() + question[1:], answer))
    return [Shape(folder / split / "images" / f"{image}.png", turns) for image, turns in sorted(by_image.items())]


def what_shape(shape: Shape) -> tuple[str, str] | None:
    """The color and the shape of a picture, of those questions whose answers say it; None where they do not."""
    shapes = {answer for _, answer in shape.turns if answer in SHAPES}
    colors = {answer for question, answer in shape.turns if question.startswith("What color")}
    return (colors.pop(), shapes.pop()) if len(shapes) == len(colors) == 1 else None


def told_shapes(shapes: Sequence[Shape], *, n: int) -> list[tuple[Shape, str, str]]:
    """The first n pictures whose questions tell what they show, each with its color and shape."""
    found = ((shape, what_shape(shape)) for shape in shapes)
    return list(islice(((shape, *said) for shape, said in found if said), n))


class Writer:
    """Collects records and questions, and saves each one's picture beside them."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng, self.n = folder, rng, 0

    def picture(self, image: Image.Image) -> str:
        """Save a picture; its name, as records and questions give it."""
        name = f"{self.n:05d}.jpg"
        self.n += 1
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(self.folder / "images" / name, quality=90)
        return name

    def record(self, turns: Sequence[tuple[str, str]], image: Image.Image | None) -> dict[str, Any]:
        """A conversation in LLaVA's format."""
        said = []
        for index, (question, answer) in enumerate(turns):
            tag = "<image>\n" if image is not None and not index else ""
            said += [{"from": "human", "value": tag + question}, {"from": "gpt", "value": answer}]
        own = {} if image is None else {"image": self.picture(image)}
        return {"id": f"{self.n:05d}-{self.rng.randrange(10**6):06d}", **own, "conversations": said}

    def save(self, name: str, rows: list[dict[str, Any]], *, shuffled: bool = False) -> None:
        """Write a file of records or questions."""
        rows = self.rng.sample(rows, len(rows)) if shuffled else rows
        (self.folder / name).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def write_alignment(writer: Writer, countries: Sequence[Country], shapes: Sequence[Shape], *, each: int) -> None:
    """Stage 1: captions. `each` pictures of every flag, and half as many of shapes."""
    rows = [
        writer.record([("What is this?", f"The flag of {country.name}.")], seen(country.flag, writer.rng))
        for country in countries
        for _ in range(each)
    ]
    for shape, color, name in told_shapes(shapes, n=len(rows) // 2):
        rows.append(writer.record([("What is this?", f"A {color} {name}.")], Image.open(shape.path)))
    writer.save("align.json", rows, shuffled=True)


def write_training(writer: Writer, countries: Sequence[Country], shapes: Sequence[Shape], *, each: int) -> None:
    """Stage 2: which country, its capital where it is not held out, in either order; questions about shapes."""
    rows = []
    for country in countries:
        turns = [(ASK_COUNTRY, country.name)]
        turns += [] if country.held_out else [(ASK_CAPITAL, country.capital)]
        rows += [
            writer.record(writer.rng.sample(turns, len(turns)), seen(country.flag, writer.rng)) for _ in range(each)
        ]
    for shape, _, answer in told_shapes(shapes, n=len(rows) // 2):
        asked = [(ASK_SHAPE, answer), *writer.rng.sample(list(shape.turns), min(2, len(shape.turns)))]
        rows.append(writer.record(asked, Image.open(shape.path)))
    writer.save("train.json", rows, shuffled=True)


def write_questions(writer: Writer, countries: Sequence[Country], shapes: Sequence[Shape], *, each: int) -> None:
    """Four files of questions on new pictures: shape, country, capital (told of in training), capital_held_out."""
    asked: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "shape": lambda: _shape_questions(writer, shapes, each * len(countries)),
        "country": lambda: _flag_questions(writer, countries, each, ASK_COUNTRY),
        "capital": lambda: _flag_questions(writer, [c for c in countries if not c.held_out], each, ASK_CAPITAL),
        "capital_held_out": lambda: _flag_questions(writer, [c for c in countries if c.held_out], each, ASK_CAPITAL),
    }
    for name, made in asked.items():
        writer.save(f"{name}.json", list(made()))


def _shape_questions(writer: Writer, shapes: Sequence[Shape], n: int) -> Iterator[dict[str, Any]]:
    for shape, _, answer in told_shapes(shapes, n=n):
        name = writer.picture(Image.open(shape.path))
        yield {"id": name, "image": name, "question": ASK_SHAPE, "answer": answer}


def _flag_questions(writer: Writer, countries: Sequence[Country], each: int, ask: str) -> Iterator[dict[str, Any]]:
    for country in countries:
        for _ in range(each):
            name = writer.picture(seen(country.flag, writer.rng))
            answer = country.name if ask == ASK_COUNTRY else country.capital
            yield {"id": f"{country.code}-{name}", "image": name, "question": ask, "answer": answer}
