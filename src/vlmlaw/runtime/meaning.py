"""What of a definition counts, as text: its syntax tree without what cannot change a result.

Left out are comments, docstrings, formatting, annotations, the wording of errors and of what is printed, and fields of
settings that are marked as passive. Each name stands for what it resolves to: a definition of this package (listed
apart, in order), something of another library (by its full name), or a local variable. So neither the module of a
definition counts nor the name of a function or constant, but two definitions of one name cannot be swapped unseen.
"""

import ast
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from vlmlaw.runtime.definitions import Module, Place, imported

PASSIVE = "passive"  # settings.passive marks a field that cannot change a result
TELLERS = ("print", "logging", "logger", "warnings")  # what is told to people: print(...), warnings.warn(...)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
VARIABLE = "variable"
NOT_THE_MEANING = ("ctx", "kind", "type_comment", "returns", "annotation", "type_params")


class Names(Protocol):
    """What a name stands for, in the package that the definition is of."""

    def resolve(self, place: Place) -> Place | str: ...

    def is_left_out(self, place: Place) -> bool: ...


def meaning(statements: Sequence[ast.stmt], *, own: str, package: Names, module: Module) -> tuple[str, list[Place]]:
    """The text of the statements that bind the name `own` of a module, and the definitions that they use."""
    reader = _Reader(package, module)
    return "\n".join(reader.statement(statement, own=own) for statement in statements), reader.uses


# Local names: a place for what is imported there, a number for a variable, None for what callers or attributes name.
Scope = dict[str, Place | str | None]


class _Reader:
    """Writes a definition down as text, with what it uses in order."""

    def __init__(self, package: Names, module: Module):
        self._package, self._module = package, module
        self.uses: list[Place] = []

    def statement(self, node: ast.stmt, *, own: str) -> str:
        """One statement of the module; the name `own` that it binds does not count, but a class's does."""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return self._function(node, [], named=False)
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [own]:
            return f"Value({self._dump(node.value, [])})"
        if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            return f"Value({self._dump(node.value, [])})"
        return self._dump(node, [])

    def _dump(self, node: Any, scopes: list[Scope]) -> str:
        if isinstance(node, list):
            return f"[{','.join(filter(None, (self._dump(part, scopes) for part in node)))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        special = getattr(self, f"_of_{type(node).__name__}", None)
        if special is not None:
            return special(node, scopes)
        if isinstance(node, FUNCTIONS):
            return self._function(node, scopes)
        if isinstance(node, COMPREHENSIONS):
            targets = [name for part in node.generators for name in _names(part.target)]
            return self._fields(node, [*scopes, _numbered(targets, depth=len(scopes))])
        return self._fields(node, scopes)

    def _fields(self, node: ast.AST, scopes: list[Scope], *, without: tuple[str, ...] = ()) -> str:
        """A node as text, without empty fields, which only some Python versions have."""
        shown = (
            f"{name}={self._dump(value, scopes)}"
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in (*NOT_THE_MEANING, *without)
        )
        return f"{type(node).__name__}({','.join(shown)})"

    def _function(self, node: Any, scopes: list[Scope], *, named: bool = True) -> str:
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        there = [argument for argument in every if argument is not None]
        body = _without_docstring(node.body) if isinstance(node.body, list) else [node.body]
        for argument in there:
            self._follow_annotation(argument.annotation, scopes)
        scope: Scope = dict.fromkeys(argument.arg for argument in there)
        outside = {name for part in body for name in _declared_outside(part)}
        bound = [(name, place) for part in body for name, place in self._bound_in(part) if name not in outside]
        variables = dict.fromkeys(name for name, place in bound if place == VARIABLE and name not in scope)
        kept = {name for name, place in bound if place is None}
        scope |= {name: place for name, place in bound if place != VARIABLE}
        scope |= _numbered([name for name in variables if name not in kept], depth=len(scopes))
        defaults = [self._dump(part, scopes) for part in (*arguments.defaults, *arguments.kw_defaults) if part]
        decorators = self._dump(getattr(node, "decorator_list", []), scopes)
        quiet = _wording_only(body)
        inner = [*scopes, scope]
        lines = [self._without_wording(part, inner) if part in quiet else self._dump(part, inner) for part in body]
        shape = [len(arguments.posonlyargs), len(arguments.kwonlyargs), bool(arguments.vararg), bool(arguments.kwarg)]
        name = getattr(node, "name", "") if named else ""
        names = [argument.arg for argument in there]
        return f"{type(node).__name__}({name},{shape},{names},{defaults},{decorators},{list(filter(None, lines))})"

    def _bound_in(self, node: ast.AST) -> Iterator[tuple[str, Place | str | None]]:
        """The local names that a statement binds, not those of functions and comprehensions in it."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node, self._module)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id, VARIABLE
        elif isinstance(node, (*COMPREHENSIONS, ast.Lambda)):
            yield from ((part.target.id, VARIABLE) for part in ast.walk(node) if isinstance(part, ast.NamedExpr))
        else:
            if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                yield node.name, None
            for part in ast.iter_child_nodes(node):
                yield from self._bound_in(part)

    def _of_ClassDef(self, node: ast.ClassDef, scopes: list[Scope]) -> str:
        body = _without_docstring(node.body)
        scope: Scope = {}
        for part in body:  # attributes, whose names count
            scope.update({name: None if place == VARIABLE else place for name, place in self._bound_in(part)})
        lines = []
        for part in body:
            # Methods do not see the names of the class's body; other statements do.
            inner = scopes if isinstance(part, FUNCTIONS) else [*scopes, scope]
            line = self._dump(part, inner)
            if line and isinstance(part, ast.AnnAssign):  # what a field may hold
                line += f":{ast.unparse(part.annotation)}"
            lines.append(line)
        outer = self._fields(node, scopes, without=("body",))
        return f"{outer}{list(filter(None, lines))}"

    def _of_AnnAssign(self, node: ast.AnnAssign, scopes: list[Scope]) -> str:
        """Also a field of a dataclass, which counts unless it is passive; the classes that it may hold are followed."""
        value = node.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == PASSIVE:
            return ""
        self._follow_annotation(node.annotation, scopes)
        return f"AnnAssign({self._dump(node.target, scopes)},{self._dump(value, scopes)})"

    def _follow_annotation(self, annotation: ast.expr | None, scopes: list[Scope]) -> None:
        """An argument's type tells whose methods may be called on it."""
        if annotation is None:
            return
        for node in ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                try:
                    self._follow_annotation(ast.parse(node.value, mode="eval").body, scopes)
                except SyntaxError:
                    continue
            elif isinstance(node, (ast.Name, ast.Attribute)):
                self._reference(node, scopes)

    def _of_Name(self, node: ast.Name, scopes: list[Scope]) -> str:
        return self._reference(node, scopes) or self._variable(node.id, scopes)

    @staticmethod
    def _variable(name: str, scopes: list[Scope]) -> str:
        """A variable by its number, so that renaming it is no change; parameters and attributes by their names."""
        known = next((scope[name] for scope in reversed(scopes) if name in scope), None)
        return known if isinstance(known, str) else repr(name)

    def _of_Attribute(self, node: ast.Attribute, scopes: list[Scope]) -> str:
        return self._reference(node, scopes) or self._fields(node, scopes)

    def _reference(self, node: ast.expr, scopes: list[Scope]) -> str:
        """What a name, or an attribute of a module, stands for; "" for a local variable or an attribute of a value."""
        names: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            return ""
        place = self._looked_up(inner.id, scopes)
        if not isinstance(place, Place):
            return ""
        found = self._package.resolve(place)
        while names and isinstance(found, Place) and not found.name:
            found = self._package.resolve(Place(found.module, names.pop(0)))
        rest = "".join(f".{name}" for name in names)
        if isinstance(found, str):
            return f"<{found}{rest}>"
        if self._package.is_left_out(found):
            return f"<left out{rest}>"
        self.uses.append(found)
        return f"<@{rest}>"

    def _looked_up(self, name: str, scopes: list[Scope]) -> Place | str | None:
        for scope in reversed(scopes):
            if name in scope:
                return scope[name]
        known = name in self._module.binds or name in self._module.imports
        return Place(self._module.name, name) if known else None

    def _of_Import(self, node: ast.Import, scopes: list[Scope]) -> str:
        return ""

    def _of_ImportFrom(self, node: ast.ImportFrom, scopes: list[Scope]) -> str:
        return ""

    def _of_Raise(self, node: ast.Raise, scopes: list[Scope]) -> str:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return f"Raise({self._dump(raised, scopes) if raised else ''})"

    def _of_Assert(self, node: ast.Assert, scopes: list[Scope]) -> str:
        return self._fields(node, scopes, without=("msg",))

    def _of_Call(self, node: ast.Call, scopes: list[Scope]) -> str:
        if _tells(node):
            return f"Tells({self._dump(node.func, scopes)})"
        called = self._dump(node.func, scopes)
        given = [*node.args, *node.keywords]
        if called.startswith("<left out"):  # such as the label of a progress bar
            given = [part for part in given if not _is_text(getattr(part, "value", part)) and not _is_text(part)]
        return f"Call({called},{self._dump(given, scopes)})"

    def _without_wording(self, node: ast.stmt, scopes: list[Scope]) -> str:
        return self._dump(_Blank().visit(ast.parse(ast.unparse(node)).body[0]), scopes)


class _Blank(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.copy_location(ast.Constant("" if isinstance(node.value, str) else node.value), node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return ast.Tuple(elts=[self.visit(value) for value in values], ctx=ast.Load())


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _tells(node: ast.Call) -> bool:
    """Whether a call makes an error or tells people something."""
    called = ast.unparse(node.func).split(".")
    return called[-1].endswith(("Error", "Warning", "Exception")) or called[0] in TELLERS


def _wording_only(body: list[ast.stmt]) -> list[ast.stmt]:
    """Assignments of a function whose variables only errors and messages use."""
    useful = set[str]()

    def collect(node: ast.AST) -> None:
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _tells(node)):
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            useful.add(node.id)
        for part in ast.iter_child_nodes(node):
            collect(part)

    for part in body:
        collect(part)
    return [part for part in body if isinstance(part, ast.Assign) and not useful & set(_names_in(part.targets))]


def _names_in(targets: list[ast.expr]) -> list[str]:
    plain = all(isinstance(target, (ast.Name, ast.Tuple)) for target in targets)
    return [name for target in targets for name in _names(target)] if plain else ["self"]


def _numbered(names: list[str], *, depth: int) -> Scope:
    return {name: f"%{depth}.{number}" for number, name in enumerate(dict.fromkeys(names))}


def _names(target: ast.AST) -> list[str]:
    return [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]


def _declared_outside(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, (ast.Global, ast.Nonlocal)):
            yield from part.names


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    return body[1:] if isinstance(first, ast.Expr) and _is_text(first.value) else body
