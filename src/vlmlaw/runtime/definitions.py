"""A module's definitions, imports and other statements, read from its syntax tree."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


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


def read_module(name: str, path: Path, *, has: Callable[[str], bool]) -> Module:
    """Sort the statements of a file; `has` tells whether the package has a module."""
    module = Module(name, is_package=path.name == "__init__.py")
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for statement in tree.body:
        _sort_in(statement, module, has, executed=True)
    return module


def _sort_in(statement: ast.stmt, module: Module, has: Callable[[str], bool], *, executed: bool) -> None:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for name, place in imported(statement, module):
            module.imports[name] = place
            if executed:
                both = (place.module, f"{place.module}.{place.name}")
                module.executed.update(part for part in both if has(part))
    elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
        for part in statement.body:
            _sort_in(part, module, has, executed=False)
    elif isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
        return
    elif names := [name for name in _bound_at_top(statement) if name not in module.imports]:
        for name in names:
            module.binds.setdefault(name, []).append(statement)
        module.effects += _decorations(statement, module)
    elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        module.effects.append(statement)


def _decorations(statement: ast.stmt, module: Module) -> list[ast.stmt]:
    """What decorators of this package do when the module is imported, such as entering a class in a table."""
    found: list[ast.stmt] = []
    for decorator in getattr(statement, "decorator_list", []):
        root = decorator.func if isinstance(decorator, ast.Call) else decorator
        while isinstance(root, ast.Attribute):
            root = root.value
        name = getattr(root, "id", "")
        home = module.imports[name].module if name in module.imports else module.name if name in module.binds else ""
        if home.split(".")[0] == module.name.split(".")[0]:
            decorated = ast.Name(id=statement.name, ctx=ast.Load())  # type: ignore[attr-defined]  # it has decorators
            found.append(ast.Expr(ast.Call(func=decorator, args=[decorated], keywords=[])))
    return found


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
