"""What a rule's outputs are to Snakemake."""

from vlmlaw.report.templates_version import TEMPLATES


def made_by(rule):
    """The rule's outputs; the report's figures are shown in Snakemake's own report too."""
    named = plan.outputs(rule)
    return named | {"files": [flagged(file) for file in named["files"]]}


def flagged(file):
    name = Path(file).stem
    if file.endswith("/"):
        return directory(file.rstrip("/"))
    if not file.endswith(".svg"):
        return file
    category, title = FIGURES[name]
    caption = str(TEMPLATES / f"{name}.rst")
    return report(file, caption=caption, category=category, labels={"figure": title})
