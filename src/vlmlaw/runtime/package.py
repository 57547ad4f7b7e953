"""The definitions of a package, and which others each of them uses.

A name stands for what it resolves to, through any number of imports. `meaning.py` says what of a definition counts.
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from vlmlaw.errors import UserError
from vlmlaw.runtime.definitions import Definition, Module, Place, read_module
from vlmlaw.runtime.meaning import meaning

PACKAGE = "vlmlaw"
FOR_PEOPLE = ("__version__", "__all__", "__doc__", "__author__")


class Package:
    """All modules of the package whose source is `source`; what lies in `left_out` (modules, or module:name) is not
    followed."""

    def __init__(self, source: Path, *, left_out: Iterable[str] = ()):
        self._source = source
        self._left_out = set(left_out)
        self._modules: dict[str, Module | None] = {}
        self._definitions: dict[Place, Definition] = {}

    def place(self, root: str) -> Place:
        """The place of `module:name` or of a whole `module`. Raises UserError where there is none."""
        module, _, name = root.partition(":")
        found = self.module(module)
        if found is None:
            raise UserError(f"no module is called {module}; expected one of the package in {self._source}.")
        if name and name not in found.binds:
            raise UserError(f"{module} defines no {name}; expected a function, class or constant of it.")
        return Place(module, name)

    def module(self, name: str) -> Module | None:
        """The module of that name, or None where the package has none."""
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = None if path is None else read_module(name, path, has=self.has)
        return self._modules[name]

    def has(self, name: str) -> bool:
        return self._path(name) is not None

    def _path(self, module: str) -> Path | None:
        first, *parts = module.split(".")
        if first != PACKAGE:
            return None
        stem = self._source.joinpath(*parts)
        candidates = (stem / "__init__.py", stem.with_suffix(".py"))
        return next((path for path in candidates if path.is_file()), None)

    def is_left_out(self, place: Place) -> bool:
        parts = place.module.split(".")
        parents = {".".join(parts[: i + 1]) for i in range(len(parts))}
        return bool(self._left_out & {*parents, f"{place.module}:{place.name}"})

    def names_in(self, package: str) -> list[Place]:
        """What the names that `package`'s __init__ imports or defines resolve to."""
        module = self.module(package)
        names = [*module.imports, *module.binds] if module else []
        found = (self.resolve(Place(package, name)) for name in sorted(names))
        return list(dict.fromkeys(place for place in found if isinstance(place, Place)))

    def class_name(self, place: Place) -> str | None:
        """The class attribute `name = "..."`, for a class that has one."""
        module = self.module(place.module)
        for statement in module.binds.get(place.name, []) if module else []:
            for part in statement.body if isinstance(statement, ast.ClassDef) else []:
                if isinstance(part, ast.Assign) and [ast.unparse(target) for target in part.targets] == ["name"]:
                    return str(part.value.value) if isinstance(part.value, ast.Constant) else None
        return None

    def resolve(self, place: Place) -> Place | str:
        """Follow imports to where a name is defined; the full name of what is not of this package."""
        seen = set[Place]()
        while place not in seen:
            seen.add(place)
            module = self.module(place.module)
            if module is None:
                return ".".join(part for part in place if part)
            if not place.name or place.name in module.binds:
                return place
            if place.name in module.imports:
                place = module.imports[place.name]
            elif self.has(f"{place.module}.{place.name}"):
                place = Place(f"{place.module}.{place.name}", "")
            else:
                return Place(place.module, "")  # made when asked for, as by a module's __getattr__: all of it
        return place

    def definition(self, place: Place) -> Definition:
        """What a place says and uses."""
        if place not in self._definitions:
            self._definitions[place] = self._read(place)
        return self._definitions[place]

    def _read(self, place: Place) -> Definition:
        module = self.module(place.module)
        assert module is not None
        if not place.name:
            names = sorted({*module.binds} - set(FOR_PEOPLE))
            return Definition("module", tuple(Place(place.module, name) for name in names))
        if place.name in FOR_PEOPLE:
            return Definition("for people")
        statements = module.binds.get(place.name) or [module.effects[int(place.name)]]
        text, uses = meaning(statements, own=place.name, package=self, module=module)
        return Definition(hashlib.sha256(text.encode()).hexdigest(), tuple(uses))

    def effects_of(self, places: Iterable[Place]) -> list[Place]:
        """The statements that run when the modules of these places are imported, with all that those import."""
        waiting, seen = sorted({place.module for place in places}), set[str]()
        found = []
        for name in waiting:  # grows meanwhile
            module = self.module(name)
            if name in seen or module is None or self.is_left_out(Place(name, "")):
                continue
            seen.add(name)
            found += [Place(name, str(index)) for index in range(len(module.effects))]
            waiting.extend(sorted(module.executed - seen))
        return found
