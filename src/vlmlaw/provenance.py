"""Fingerprints of a stage's code, so that a workflow reruns what a changed line affects and nothing else.

The fingerprint of a module covers it and every module of this package that it imports, also inside functions. It
is taken of the syntax tree: comments, docstrings, formatting, annotations of arguments, imports for the type checker
only and the wording of raised errors do not count. Of the compressors only the one in use counts, so that a new one
beside it retrains nothing.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vlmlaw.errors import UserError
from vlmlaw.memory import recall, remember

PACKAGE = "vlmlaw"
COMPRESSORS = "vlmlaw.compressors"  # a table of classes, of which a cell uses one
SOURCE = Path(__file__).resolve().parent


@cache
def code_version(*modules: str, compressor: str | None = None) -> str:
    """A short hash of what the code of these modules does; with `compressor` all others are left out.

    Raises UserError for a module that is not there.
    """
    asked = ("code", _bytes_version(), " ".join(modules), compressor or "")
    version = recall(*asked)
    if version is None:
        version = _code_version(modules, compressor)
        remember(version, *asked)
    return version


@cache
def _bytes_version() -> str:
    """A hash of every source file as it stands: a hundredth of the time that the syntax trees take."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(str(path.relative_to(SOURCE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _code_version(modules: tuple[str, ...], compressor: str | None) -> str:
    closure = set().union(*(imported_modules(module) for module in modules))
    if compressor is not None:
        closure -= _other_compressors(compressor)
        closure.discard(COMPRESSORS)
    meanings = [f"{module} {_meaning(module)}" for module in sorted(closure)]
    if compressor is not None:
        meanings.append(_meaning_of_functions(COMPRESSORS))
    return hashlib.sha256("\n".join(meanings).encode()).hexdigest()[:16]


def imported_modules(*modules: str, without: str = "") -> set[str]:
    """The modules and all of this package that they need, directly or through others, but not through `without`."""
    found, waiting = set[str](), list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found and name != without:
            found.add(name)
            waiting.extend(_imports(name))
    return found


@cache
def _other_compressors(compressor: str) -> set[str]:
    """Modules of compressors that the one in use does without."""
    kinds = {module for module in imported_modules(COMPRESSORS) if _class_names(module)}
    own = [module for module in kinds if compressor in _class_names(module)]
    return kinds - imported_modules(*own, without=COMPRESSORS) if own else set()


@cache
def _class_names(module: str) -> frozenset[str]:
    """The class attributes `name = "..."` of a module of compressors: what they are called in an experiment file."""
    if not module.startswith(f"{COMPRESSORS}."):
        return frozenset()
    classes = [node for node in _tree(module).body if isinstance(node, ast.ClassDef)]
    values = [
        node.value
        for parent in classes
        for node in parent.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["name"]
    ]
    return frozenset(str(value.value) for value in values if isinstance(value, ast.Constant))


@cache
def _meaning(module: str) -> str:
    """The normalised syntax tree of a module, hashed."""
    return hashlib.sha256(_dump(_tree(module)).encode()).hexdigest()


@cache
def _meaning_of_functions(module: str) -> str:
    """As `_meaning`, without the table that grows with each compressor and the imports for it."""
    functions = [node for node in _tree(module).body if isinstance(node, ast.FunctionDef)]
    return hashlib.sha256(_dump(functions).encode()).hexdigest()


@cache
def _imports(module: str) -> frozenset[str]:
    """The package's modules that this one imports, and the packages above them, whose __init__ runs too."""
    tree = _tree(module)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    own = {name for name in names if name == PACKAGE or name.startswith(f"{PACKAGE}.")}
    existing = {name for name in own if _path(name)}
    return frozenset(parent for name in existing for parent in _with_parents(name)) | frozenset(_with_parents(module))


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    path = _path(module)
    package = module.split(".") if path and path.name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _path(module: str) -> Path | None:
    stem = SOURCE.joinpath(*module.split(".")[1:])
    candidates = (stem / "__init__.py", stem.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    """The syntax tree of a module, normalised."""
    path = _path(module)
    if path is None:
        raise UserError(f"no module is called {module}; expected a file of the package {SOURCE}.")
    return _Normalise().visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def _dump(node: object) -> str:
    """The tree as text, without what only some Python versions have: empty and absent fields, and load or store."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment"))
        shown = (f"{name}={_dump(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(shown)})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)


class _Normalise(ast.NodeTransformer):
    """Drops what does not change a result."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if "TYPE_CHECKING" in _dump(node.test) and not node.orelse:
            return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """`__version__` and `__all__` are for people and tools."""
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return None if names in (["__version__"], ["__all__"]) else self.generic_visit(node)

    def _without_docstring(self, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:]
        return self.generic_visit(node)
