"""Text of an experiment file that becomes a path or a shell word: refused where it enters, whole where it is used."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment

ROOT = Path(__file__).parents[2]


def experiment(name="tiny", **sections):
    data = yaml.safe_load((ROOT / "workflow" / "experiments" / f"{name}.yaml").read_text())
    return Experiment.from_mapping(data | sections, source="params.yaml")


@pytest.mark.parametrize(
    "folder",
    [
        *(
            "$(touch X)",
            "a b",
            "a'b",
            'a"b',
            "a&b",
            "a;b",
            "a*",
            "~",
            "~/a",
            "{size}",
            "a\nb",
            "-a",
            "a\\b",
            "a|b",
            "a#b",
        ),
        *(
            "",
            ".",
            "..",
            "../a",
            "a/../../b",
            "/tmp/a",
            ".hidden",
            "a/.git",
            "src",
            "./src/",
            "SRC/results",
            "workflow",
        ),
    ],
)
def test_a_results_folder_that_a_shell_or_the_project_takes_for_something_else_is_refused(folder):
    with pytest.raises(UserError, match=r"params\.yaml\.results: found "):
        experiment(results=folder)


@pytest.mark.parametrize(
    ("folder", "meant"), [("./results/", "results"), ("a//b/../c", "a/c"), ("étude_1.b", "étude_1.b")]
)
def test_a_results_folder_is_normalised(folder, meant):
    assert experiment(results=folder).results == meant


@pytest.mark.parametrize(
    ("name", "said"), [("3K", "only in capitals"), ("3k.work", "cannot name a folder"), ("../3k", "cannot")]
)
def test_names_that_would_meet_in_a_folder_are_refused(name, said):
    sizes = yaml.safe_load((ROOT / "workflow" / "experiments" / "tiny.yaml").read_text())["sizes"]
    with pytest.raises(UserError, match=said):
        experiment(sizes=sizes | {name: sizes["3k"]})


@pytest.mark.parametrize("path", ["~/train.json", "-train.json", "a\nb.json", " train.json"])
def test_a_path_that_no_tool_takes_as_meant_is_refused(path, practice, monkeypatch):
    monkeypatch.chdir(practice.parent)
    data = yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())["data"]
    data["train"]["conversations"] = path
    with pytest.raises(UserError, match=r"params\.yaml\.data\.train\.conversations: found "):
        experiment("practice", data=data)


@pytest.mark.parametrize("path", ["../../other/train.json", "/etc/train.json"])
def test_a_file_of_the_hub_lies_in_its_repository(path, practice, monkeypatch):
    monkeypatch.chdir(practice.parent)
    data = yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())["data"]
    data["train"] |= {"repository": "a/b", "conversations": path}
    with pytest.raises(UserError, match=r"data\.train\.conversations: found .* leaves the repository"):
        experiment("practice", data=data)


HOSTILE = 'a b/$(touch X)/`touch X`/it\'s "{x}" & ; * ~/end'


@pytest.mark.parametrize("name", ["tiny", "practice"])
def test_every_word_of_every_command_reaches_it_whole(tmp_path, name, stages_of_experiments):
    """Each command is filled with text that a shell would take apart, and run with a printer in the verb's place."""
    from snakemake.utils import format as fill

    for rule, stage, command in stages_of_experiments[name]:
        words = {
            "input": SimpleNamespace(**{part: [HOSTILE] for part in (*stage.reads, *stage.theirs)}),
            "output": SimpleNamespace(files=[HOSTILE], record=HOSTILE),
            "params": SimpleNamespace(**dict.fromkeys((*stage.params, "code", "upstream"), HOSTILE)),
            "resources": SimpleNamespace(
                **dict.fromkeys((*stage.resources, "compute", "mem_mb", "runtime", "gpu"), HOSTILE)
            ),
            "wildcards": SimpleNamespace(**dict.fromkeys(stage.names, HOSTILE)),
            "log": "the log",
            "threads": 2,
        }
        line = fill(command.replace("python -m vlmlaw", "printf '%s\\0'"), **words).partition(" 2>&1")[0]
        line = line.partition(" > ")[0] if " > 'the log'" in line else line
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not list(tmp_path.iterdir()), (rule, done.stderr)
        parent = HOSTILE.rpartition("/")[0]
        for word in done.stdout.split("\0"):
            rest = word.replace(HOSTILE, "").replace(parent, "")
            assert not set(rest) & set("$`&;~{"), f"{rule}: {word!r} is a part of a word"


@pytest.fixture(scope="module")
def stages_of_experiments(practice):
    """Each stage and its command, of an experiment that makes everything and of one with pretrained models."""
    from vlmlaw.workflow.plan import Plan

    found = {}
    for name in ("tiny", "practice"):
        data = yaml.safe_load((ROOT / "workflow" / "experiments" / f"{name}.yaml").read_text())
        with pytest.MonkeyPatch.context() as at:
            at.chdir(practice.parent)
            plan = Plan(data)
        found[name] = [(rule, stage, plan.command(rule)) for rule, stage in plan.stages.items()]
    return found
