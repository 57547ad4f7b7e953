"""The locks hold what pyproject.toml asks for, and agree with one another."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ENVS = ROOT / "envs"
CUDA_ONLY = re.compile(r"cuda-|nvidia-|triton")


def pins(name: str) -> dict[str, str]:
    """version of each package of a lock, whatever its marker."""
    lines = [line for line in (ENVS / name).read_text().splitlines() if line and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        requirement = Requirement(line)
        versions = [spec.version for spec in requirement.specifier if spec.operator == "=="]
        assert len(versions) == 1, f"{name}: {line} is not pinned"
        found[canonicalize_name(requirement.name)] = versions[0]
    return found


@pytest.mark.parametrize("name", ["cpu.txt", "cuda.txt"])
def test_every_requirement_is_locked_within_its_bounds(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    locked = pins(name)
    for requirement in map(Requirement, asked):
        if requirement.name != project["name"]:
            version = locked.get(canonicalize_name(requirement.name))
            assert version is not None, f"{name} lacks {requirement}; run `make lock`"
            assert requirement.specifier.contains(version), f"{name} has {version} for {requirement}; run `make lock`"


def test_the_locks_differ_in_cuda_packages_alone():
    cpu, cuda = pins("cpu.txt"), pins("cuda.txt")
    assert {name: version for name, version in cuda.items() if not CUDA_ONLY.match(name)} == cpu
    assert any(CUDA_ONLY.match(name) for name in cuda)
    assert f"torch=={cpu['torch']}" in (ENVS / "torch.txt").read_text()


def test_the_conda_environment_is_the_cpu_lock():
    environment = yaml.safe_load((ENVS / "environment.yaml").read_text())
    lines = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    own = [line for line in (ENVS / "cpu.txt").read_text().splitlines() if not line.lstrip().startswith("#")]
    assert lines == own


def test_no_lock_names_an_index_or_a_path():
    for path in ENVS.iterdir():
        assert not re.search(r"https?://|file:|--(extra-)?index|--find-links \S|@ ", path.read_text()), path.name


@pytest.mark.parametrize("name", ["Dockerfile", "vlmlaw.def"])
def test_the_image_installs_the_locks_and_nothing_beside_them(name):
    text = (ENVS / name).read_text()
    installs = re.findall(r"pip install (.*)", text)
    assert len(installs) == 2
    assert re.search(r"--requirement \"?/opt/vlmlaw/envs/(\$\{LOCK\}|\{\{ lock \}\})", installs[0])
    assert "--no-deps /opt/vlmlaw" in installs[1], "the package itself brings no version of anything"
    assert re.search(r"(ARG LOCK|lock)=cuda\.txt", text)
    for needed in ("envs/cpu.txt", "envs/cuda.txt", "pyproject.toml", "README.md", "LICENSE", "src"):
        assert needed in text and (ROOT / needed).exists()


def test_images_have_a_python_that_the_project_supports():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    versions = [
        re.search(r"python:(\d+\.\d+)-slim", (ENVS / name).read_text()) for name in ("Dockerfile", "vlmlaw.def")
    ]
    assert len({found.group(1) for found in versions if found}) == 1 and all(versions)
    assert all(SpecifierSet(asked).contains(found.group(1)) for found in versions if found)
