"""One private Slurm for all cases, and a finished run of the tiny experiment that each case changes a copy of."""

from pathlib import Path

import pytest

from workflow.conftest import finished_once  # noqa: F401  # a fixture

from .private_cluster import PrivateCluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Nodes n1 to n3 for all, n4 and n5 for the case that kills one."""
    slurm = PrivateCluster(Path(tmp_path_factory.mktemp("slurm")))
    slurm.up()
    yield slurm
    slurm.down()
