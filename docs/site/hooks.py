"""MkDocs hooks: put the site together from README.md, docs/*.md, docstrings and the settings' definitions.

Each page keeps the path that it has in the repository, so its relative links work in both places. A linked file that
is no page (a picture, an experiment file, a licence) is copied beside the pages; a link to a file that is not there
fails the strict build.
"""

import functools
import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "src")]

from api import package_pages, short_name  # noqa: E402
from experiment_file import reference  # noqa: E402

PACKAGES = ("vlmlaw.laws", "vlmlaw.compressors", "vlmlaw.vlm", "vlmlaw.evaluation")
GUIDES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", "docs/*.md")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
log = logging.getLogger("vlmlaw.docs")


def on_config(config: Any) -> Any:
    """Name the API's pages in the navigation, and the extension that reads docstrings by its place on this disk."""
    reference_entries = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    for package, pages in _api().items():
        reference_entries.append({package: [{short_name(uri, package): uri} for uri in pages]})
    options = config.plugins["mkdocstrings"].config.handlers["python"]["options"]
    options["extensions"] = [str(HERE / name) for name in options["extensions"]]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add every page, and the files that pages link to."""
    guides = sorted(path for pattern in GUIDES for path in ROOT.glob(pattern))
    for path in guides:
        files.append(_copied(path, config))
    for path in sorted({target for guide in guides for target in _linked_files(guide)} - set(guides)):
        files.append(_copied(path, config))
    for pages in _api().values():
        for uri, text in pages.items():
            files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "reference/experiment.md", content=reference()))
    return files


@functools.cache
def _api() -> dict[str, dict[str, str]]:
    """Text of each API page by its path, by package. A package that is not there is left out, and said."""
    found = {package: package_pages(package, ROOT / "src") for package in PACKAGES}
    for package in [name for name, pages in found.items() if not pages]:
        log.warning("no package is called %s, so the site has no page of it; PACKAGES in %s", package, Path(__file__))
    return {package: pages for package, pages in found.items() if pages}


def _copied(path: Path, config: Any) -> File:
    return File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))


def _linked_files(page: Path) -> set[Path]:
    """The files of the repository that a page links to."""
    targets = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
    return {path for path in targets if path.is_file() and path.is_relative_to(ROOT)}
