"""Fingerprints of code, so that a workflow reruns what a changed line affects and nothing else.

The fingerprint of a function covers what it can execute: its own definition and, through every name that it uses, the
definitions of this package that those names resolve to (functions, classes, constants), wherever they lie. Moving or
renaming a module changes nothing, and neither does code that the function does not reach. See `definitions.py` for what
of a definition counts.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from vlmlaw.runtime.definitions import Definition, Place
from vlmlaw.runtime.memo import recall, remember
from vlmlaw.runtime.package import PACKAGE, Package

COMPRESSORS = f"{PACKAGE}.compressors"  # a table of classes, of which a cell uses one
# Nothing in here can change a number: how files are written, what is shown or logged, how the machine is used.
LEFT_OUT = tuple(f"{PACKAGE}.{place}" for place in ("runtime", "errors", "training.settings:ComputeSettings"))
SOURCE = Path(__file__).resolve().parents[1]


@cache
def code_version(*roots: str, compressor: str | None = None) -> str:
    """A short hash of what these functions do, each named as `package.module:function`, or of whole modules.

    With `compressor`, all other compressors are left out. Raises UserError for a root that is not there.

    >>> len(code_version("vlmlaw.laws.analysis:analyse"))
    16
    """
    asked = ("code", _bytes_version(), " ".join(roots), compressor or "")
    version = recall(*asked)
    if version is None:
        version = Fingerprint(_package(SOURCE), compressor=compressor).of(roots)
        remember(version, *asked)
    return version


def reached(*roots: str, compressor: str | None = None) -> list[Place]:
    """Every definition that the fingerprint of these roots covers, in the order in which they are found."""
    return Fingerprint(_package(SOURCE), compressor=compressor).reached(roots)


@cache
def _package(source: Path) -> Package:
    return Package(source, left_out=LEFT_OUT)


@cache
def _bytes_version() -> str:
    """A hash of every source file as it stands: a hundredth of the time that the syntax trees take."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(str(path.relative_to(SOURCE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Fingerprint:
    """Walks the definitions of a package from some roots; with a `compressor` past the others."""

    def __init__(self, package: Package, *, compressor: str | None = None):
        self._package, self._compressor = package, compressor
        own = [place for place in self._classes if package.class_name(place) == compressor]
        self._own = own[0] if own else None

    @property
    def _classes(self) -> list[Place]:
        """The classes of compressors, which an experiment file names by their attribute `name`."""
        return [place for place in self._package.names_in(COMPRESSORS) if self._package.class_name(place) is not None]

    def of(self, roots: Iterable[str]) -> str:
        """The hash of the roots and of what importing their modules executes."""
        places = self.reached(roots)
        lines = [self._hash_from([self._package.place(root)]) for root in roots]
        # Statements such as a registration run when their module is imported; in which order does not matter.
        lines += sorted({self._hash_from([effect]) for effect in self._package.effects_of(places)})
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def reached(self, roots: Iterable[str]) -> list[Place]:
        found = list(self._walk([self._package.place(root) for root in roots]))
        effects = self._package.effects_of(found)
        return list(dict.fromkeys([*found, *self._walk(effects)]))

    def _hash_from(self, places: list[Place]) -> str:
        """Definitions count by content and by who uses whom, numbered in the order found: not by name or module."""
        walk = self._walk(places)
        number = {place: index for index, place in enumerate(walk)}
        lines = [
            f"{definition.digest} {' '.join(str(number.get(place, '-')) for place in definition.uses)}"
            for definition in walk.values()
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _walk(self, places: Iterable[Place]) -> dict[Place, Definition]:
        waiting, found = list(places), dict[Place, Definition]()
        for place in waiting:  # grows meanwhile
            if place in found:
                continue
            found[place] = self._definition(place)
            waiting.extend(found[place].uses)
        return found

    def _definition(self, place: Place) -> Definition:
        if self._own is None:
            return self._package.definition(place)
        if place == Place(COMPRESSORS, "COMPRESSORS"):
            return Definition("the compressor in use", (self._own,))
        whole = self._package.definition(place)
        if place.module != COMPRESSORS and place.module.startswith(f"{COMPRESSORS}."):
            return whole  # of a compressor itself, which may build on another
        others = set(self._classes) - {self._own}
        return Definition(whole.digest, tuple(used for used in whole.uses if used not in others))
