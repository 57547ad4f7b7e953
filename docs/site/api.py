"""The API's pages: one for a package, with its docstring and modules, and one for each module with public names."""

import ast
from pathlib import Path


def package_pages(package: str, source: Path) -> dict[str, str]:
    """Text of each page by its path in the site; empty where the package is not there."""
    folder = source.joinpath(*package.split("."))
    if not (folder / "__init__.py").is_file():
        return {}
    modules = {path: _name(path, source) for path in sorted(folder.rglob("*.py")) if _public_names(path)}
    inner = {path: name for path, name in modules.items() if name != package}
    uris = {name: f"reference/{name.replace('.', '/')}.md" for name in inner.values()}
    here = f"reference/{package.replace('.', '/')}"
    rows = [
        f"| [`{short_name(uris[name], package)}`]({uris[name].removeprefix(here + '/')}) | {_first_line(path)} |"
        for path, name in inner.items()
    ]
    members = "      members: []\n" if package not in modules.values() else ""
    overview = (
        f"# {package}\n\n::: {package}\n    options:\n      heading_level: 2\n{members}\n"
        "## Modules\n\n| module | holds |\n|---|---|\n" + "\n".join(rows) + "\n"
    )
    return {f"{here}/index.md": overview} | {uris[name]: f"# {name}\n\n::: {name}\n" for name in inner.values()}


def short_name(uri: str, package: str) -> str:
    """A page's module as seen from its package; "overview" for the package itself."""
    name = uri.removeprefix(f"reference/{package.replace('.', '/')}/").removesuffix(".md").replace("/", ".")
    return "overview" if name == "index" else name


def _name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _public_names(path: Path) -> list[str]:
    """Names that a module defines for others: classes, functions, constants."""
    names: list[str] = []
    for node in _tree(path).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.append(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def _first_line(path: Path) -> str:
    """The first paragraph of a module's docstring, as a cell of a table."""
    paragraph = (ast.get_docstring(_tree(path)) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
