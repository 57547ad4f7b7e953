"""What the verbs' parsers share."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXPERIMENT = "params.yaml"
DEFAULTS = (EXPERIMENT, "results")  # of options that name the experiment or its results


class Parser(argparse.ArgumentParser):
    """A parser whose verbs, and theirs, have their line of help as description where they bring no other."""

    def add_subparsers(self, **options: Any) -> Any:
        verbs: Any = super().add_subparsers(**options)
        add = verbs.add_parser

        def add_parser(name: str, *, help: str, **more: Any) -> Any:
            return add(name, help=help, **({"description": f"{help[:1].upper()}{help[1:]}."} | more))

        verbs.add_parser = add_parser
        return verbs


def go_to_root(*given: str) -> None:
    """Go to the project's root where a verb is called below it and names no file of its own.

    The root is the nearest folder above with a Snakefile and params.yaml. `given` are the verb's files and folders.
    """
    here = Path.cwd()
    if Path(EXPERIMENT).exists() or any(name not in DEFAULTS for name in given):
        return
    for folder in here.parents:
        if (folder / EXPERIMENT).is_file() and (folder / "Snakefile").is_file():
            print(f"in {folder}:", file=sys.stderr)
            os.chdir(folder)
            return


def existing(text: str) -> Path:
    """The type of an argument that names a file or folder which an earlier stage, or the user, made."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not there; expected a file or folder that an earlier stage made")
    return Path(text)


def folder_of(*names: str) -> Callable[[str], Path]:
    """The type of an argument that names a folder which holds one of these files."""

    def folder(text: str) -> Path:
        if not any((existing(text) / name).is_file() for name in names):
            wanted = " or ".join(names)
            raise argparse.ArgumentTypeError(
                f"{text!r} has no {wanted}; expected the folder that an earlier stage made"
            )
        return Path(text)

    return folder


def file(text: str) -> Path:
    """The type of an argument that names a file."""
    if not existing(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; expected a file that an earlier stage made")
    return Path(text)
