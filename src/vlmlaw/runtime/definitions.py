"""The definitions of a package, and which others each of them uses, read from the syntax trees.

A name stands for what it resolves to, through any number of imports. `meaning.py` says what of a definition counts.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vlmlaw.errors import UserError

PACKAGE = "vlmlaw"
FOR_PEOPLE = ("__version__", "__all__", "__doc__", "__author__")


class Place(NamedTuple):
    """A name of a module; "" stands for the module as a whole, a number for a statement that importing it executes."""

    module: str
    name: str


@dataclass(frozen=True)
class Definition:
    """The hash of what a definition says, and the definitions it uses in the order in which it names them."""

    digest: str
    uses: tuple[Place, ...] = ()


@dataclass
class Module:
    """A module's statements by the name that they bind, its imports, and statements that bind nothing."""

    name: str
    is_package: bool
    binds: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)  # also those for the type checker only
    executed: set[str] = field(default_factory=set)  # modules that importing this one imports
    effects: list[ast.stmt] = field(default_factory=list)


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
            self._modules[name] = None if path is None else _read_module(name, path, self)
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
        from vlmlaw.runtime.meaning import meaning

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


def _read_module(name: str, path: Path, package: Package) -> Module:
    module = Module(name, is_package=path.name == "__init__.py")
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for statement in tree.body:
        _sort_in(statement, module, package, executed=True)
    return module


def _sort_in(statement: ast.stmt, module: Module, package: Package, *, executed: bool) -> None:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for name, place in imported(statement, module):
            module.imports[name] = place
            if executed:
                both = (place.module, f"{place.module}.{place.name}")
                module.executed.update(part for part in both if package.has(part))
    elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
        for part in statement.body:
            _sort_in(part, module, package, executed=False)
    elif isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
        return
    elif names := [name for name in _bound_at_top(statement) if name not in module.imports]:
        for name in names:
            module.binds.setdefault(name, []).append(statement)
    elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        module.effects.append(statement)


def imported(node: ast.Import | ast.ImportFrom, module: Module) -> Iterator[tuple[str, Place]]:
    """Each name that an import binds, and what it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            yield name, Place(alias.name if alias.asname else name, "")
        return
    base = node.module or ""
    if node.level:
        parts = module.name.split(".")
        kept = parts[: len(parts) - node.level + module.is_package]
        base = ".".join([*kept, node.module] if node.module else kept)
    for alias in node.names:
        yield alias.asname or alias.name, Place(base, alias.name)


def _bound_at_top(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module binds or changes (`TABLE["x"] = ...` changes TABLE)."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            inner = target
            while isinstance(inner, (ast.Subscript, ast.Attribute)):
                inner = inner.value
            yield from (node.id for node in ast.walk(inner) if isinstance(node, ast.Name))
    elif isinstance(statement, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
        for part in ast.iter_child_nodes(statement):
            inner_statements = part.body if isinstance(part, ast.ExceptHandler) else [part]
            for inner_statement in inner_statements:
                if isinstance(inner_statement, ast.stmt):
                    yield from _bound_at_top(inner_statement)
        if isinstance(statement, ast.For):
            yield from (node.id for node in ast.walk(statement.target) if isinstance(node, ast.Name))
