"""The locks hold what pyproject.toml asks for, and agree with one another."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
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
