"""`vlmlaw law tables`: the published measurements that the tool brings along."""

import argparse
from typing import Any

from vlmlaw.laws.published import TABLES, published_path


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "tables",
        help="list the published measurements that `law fit NAME` reads",
        description="List published measurements; with a name, say where they stand and what to know before comparing.",
    )
    verb.add_argument("name", nargs="?", default=None, choices=[*TABLES], metavar="NAME", help="one of them")
    verb.add_argument(
        "--page", action="store_true", help="print the page of beta by model and method (docs/trade-offs.md)"
    )
    verb.set_defaults(run=run_tables)


def run_tables(args: argparse.Namespace) -> int:
    """Print the list, one table's source, or the page."""
    from vlmlaw.laws.render import render_table

    if args.page:
        from vlmlaw.laws.slopes import render_page

        print(render_page(), end="")
    elif args.name:
        table = TABLES[args.name]
        path = published_path(args.name)
        rows = [("holds", table.about), ("source", table.source), ("caveat", table.caveat)]
        print("\n".join(f"{label:8} {text}" for label, text in [*rows, ("file", str(path))]))
    else:
        print(render_table(["table", "what it holds"], [[name, table.about] for name, table in TABLES.items()]))
        print("\n`vlmlaw law fit NAME` fits one, `vlmlaw law tables NAME` says where it stands and its caveat.")
    return 0
