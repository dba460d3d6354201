"""The fixture `cluster_control`."""

import os

import pytest

from dqlitetestlib import TestClusterControl


@pytest.fixture
def cluster_control() -> TestClusterControl:
    nodes = os.environ["DQLITE_TEST_CLUSTER_NODES"].split(",")
    return TestClusterControl(nodes)
