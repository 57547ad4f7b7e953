"""Guard functions that rely on internals of another package, so that they run only if those are as expected."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from importlib import import_module
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
PROPERTY, ATTRIBUTE, MISSING = "a property", "an attribute", "missing"


@dataclass(frozen=True)
class Part:
    """An attribute of a class in another package, and the shape that is expected of it (see `shape`)."""

    module: str
    owner: str
    name: str
    expected: str

    def shape(self) -> str:
        """Return the shape found: `(self, file)` of a function, `async (self)`, a constant above, or a type's name."""
        try:
            if self.module.startswith("snakemake."):
                import_module("snakemake.api")  # Snakemake's modules import each other; this one has to come first
            owner = getattr(import_module(self.module), self.owner)
        except (ImportError, AttributeError):
            return MISSING
        setters = (getattr(owner, name, None) for name in ("__init__", "__post_init__"))
        assigned = [name for setter in setters if inspect.isfunction(setter) for name in setter.__code__.co_names]
        value = inspect.getattr_static(owner, self.name, None)
        if isinstance(value, property):
            return PROPERTY
        if self.name in (*getattr(owner, "__annotations__", {}), *assigned):
            frozen = getattr(getattr(owner, "__dataclass_params__", None), "frozen", False)
            return f"{ATTRIBUTE} that cannot be set" if frozen else ATTRIBUTE
        if value is None:
            return MISSING
        function = inspect.unwrap(value) if callable(value) else None
        if not inspect.isfunction(function):
            return type(value).__name__
        parameters = f"({', '.join(inspect.signature(function).parameters)})"
        return f"async {parameters}" if inspect.iscoroutinefunction(function) else parameters


@dataclass(frozen=True)
class Reliance:
    """A function of ours and the internals that it relies on."""

    name: str
    parts: tuple[Part, ...]
    lost: str  # by a run, where the internals differ
    until: str  # what the package would have to offer for the function to go

    @property
    def differences(self) -> tuple[str, ...]:
        """Descriptions of the parts that differ; empty if all are as expected."""
        return _differences(self.parts)


RELIANCES: dict[str, Reliance] = {}


@cache
def _differences(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """Compare the parts, once only, so that our own replacements do not count as differences."""
    found = ((part, part.shape()) for part in parts)
    return tuple(
        f"{part.owner}.{part.name} is {shape}, expected {part.expected}"
        for part, shape in found
        if shape != part.expected
    )


def relies_on(*parts: Part, lost: str, until: str, otherwise: Any = None) -> Callable[[Function], Function]:
    """Decorate a function to run only if all parts have the expected shape; otherwise its result is `otherwise`."""

    def guard(function: Function) -> Function:
        reliance = RELIANCES[function.__name__] = Reliance(function.__name__, parts, lost, until)

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not reliance.differences:
                return function(*args, **kwargs)
            return otherwise(*args, **kwargs) if callable(otherwise) else otherwise

        return guarded  # type: ignore[return-value]

    return guard
