"""The workflow as a module of another one, under names of that one's choice, and deployed as the catalogue does."""

import pytest
import yaml

from .project import ROOT, Project, new_project, tiny_experiment

pytestmark = pytest.mark.workflow
TOKENIZER = "results/data/tokenizer/tokenizer.json"
OUTER = """
configfile: "config/config.yaml"


module vlmlaw:
    snakefile:
        "{snakefile}"
    config:
        config{key}


use rule * from vlmlaw{names}
"""


@pytest.mark.parametrize("usage", ["deployed", "module"])
def test_another_workflow_runs_its_rules(tmp_path, usage):
    """Deployed: the whole configuration is the experiment. As a module: a part of it, and rules have a prefix."""
    repository, outer = new_project(tmp_path / "repository", tiny_experiment()), Project(tmp_path / "outer")
    (outer.folder / "config").mkdir(parents=True)
    (outer.folder / "workflow").mkdir()
    config = tiny_experiment() if usage == "deployed" else {"study": tiny_experiment(), "other": {"name": "mine"}}
    (outer.folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    key, names = ("", "") if usage == "deployed" else ('["study"]', " as vlm_*")
    snakefile = repository.folder / "workflow" / "Snakefile"
    (outer.folder / "workflow" / "Snakefile").write_text(OUTER.format(snakefile=snakefile, key=key, names=names))
    done = outer.snakemake(TOKENIZER)
    assert "as a module" in done.stderr and (outer.folder / TOKENIZER).exists()
    prefix = "" if usage == "deployed" else "vlm_"
    planned = outer.planned()
    assert planned[f"{prefix}train_cell"] == 10 and f"{prefix}build_tokenizer" not in planned


def test_the_catalogue_finds_what_it_asks_for():
    assert yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert (ROOT / "config" / "config.yaml").read_text() == (ROOT / "params.yaml").read_text()
    assert (ROOT / "workflow" / "Snakefile").exists() and (ROOT / "config" / "README.md").exists()
