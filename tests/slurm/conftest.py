"""One private Slurm for all cases, and a finished run of the tiny experiment that each case changes a copy of."""

from pathlib import Path

import pytest

from workflow.conftest import finished_once  # noqa: F401  # a fixture

from .private_cluster import PrivateCluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """So few CPUs that jobs wait in the queue, not for each other's cores."""
    slurm = PrivateCluster(Path(tmp_path_factory.mktemp("slurm")), nodes=2, cpus=2)
    slurm.up()
    yield slurm
    slurm.down()
