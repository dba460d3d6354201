"""What the Python packages' own tests want of a helper that is not published with them: a handle on
the running cluster. Written from how those tests use it; loaded as a pytest plugin by `suites.py`.

The environment names the cluster: `DQLITE_TEST_CLUSTER_NODES`, and `DQ_SERVER`, the program that runs
one more node.
"""

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from dqliteclient.cluster import ClusterClient
from dqliteclient.node_store import MemoryNodeStore
from dqlitewire import NodeRole

DEADLINE_S = 20.0
POLL_S = 0.05
SPARE_ID = 77
SPARE_ADDRESS = "127.0.0.1:9077"


@dataclass(frozen=True)
class Flip:
    """A transfer of leadership that is done."""

    target: Any
    leader_after: str


@dataclass(frozen=True)
class Spare:
    """A node besides the cluster's three."""

    node_id: int
    address: str


class TestClusterControl:
    """Looks at the cluster and moves its leadership and members."""

    __test__ = False

    def __init__(self, addresses: list[str]) -> None:
        self._cluster = ClusterClient(MemoryNodeStore(addresses), timeout=5.0)

    async def cluster_info(self) -> list[Any]:
        return await self._cluster.cluster_info()

    async def current_leader_node(self) -> Any:
        leader = await self._cluster.find_leader()
        return next(node for node in await self.cluster_info() if node.address == leader)

    async def promote(self, node_id: int) -> bool:
        await self._cluster.assign_role(node_id, NodeRole.VOTER)
        return True

    async def transfer_leadership_to(self, node_id: int) -> None:
        await self._cluster.transfer_leadership(node_id)

    async def force_leader_flip(self) -> Flip:
        """Gives leadership to another voter, and returns when the cluster says so."""
        before = await self.current_leader_node()
        target = next(
            node
            for node in await self.cluster_info()
            if node.role == NodeRole.VOTER and node.node_id != before.node_id
        )
        await self.transfer_leadership_to(target.node_id)
        return Flip(target, await self.wait_for_leader_change(before.address))

    async def wait_for_leader_change(self, address: str) -> str:
        """The leader's address, once it is another one."""

        async def other() -> str | None:
            leader = await self._cluster.find_leader()
            return leader if leader != address else None

        return await eventually(other, f"another leader than {address}")

    async def wait_for_role(self, node_id: int, role: NodeRole, timeout: float = DEADLINE_S) -> None:
        async def has_it() -> bool:
            return any(n.node_id == node_id and n.role == role for n in await self.cluster_info())

        await eventually(has_it, f"node {node_id} with role {role}", timeout)

    @contextlib.asynccontextmanager
    async def spare_node(self) -> AsyncIterator[Spare]:
        """A fourth node that has joined; it is no member any more afterwards."""
        leader = await self._cluster.find_leader()
        with tempfile.TemporaryDirectory(prefix="dq-spare-") as data:
            options = ["--id", str(SPARE_ID), "--address", SPARE_ADDRESS, "--dir", data]
            options += ["--join", leader, "--roles", "off", "--network-latency-ms", "50"]
            node = subprocess.Popen([os.environ["DQ_SERVER"], "run", *options], stdout=subprocess.DEVNULL)
            try:

                async def is_member() -> bool:
                    return any(n.node_id == SPARE_ID for n in await self.cluster_info())

                await eventually(is_member, "the node joins")
                yield Spare(SPARE_ID, SPARE_ADDRESS)
            finally:
                try:
                    await self._cluster.remove_node(SPARE_ID)
                finally:
                    node.terminate()
                    node.wait(DEADLINE_S)


async def eventually(condition: Any, what: str, timeout: float = DEADLINE_S) -> Any:
    """What the condition gives, asked until it is true. It may fail while leadership moves."""
    end = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() < end:
        try:
            if found := await condition():
                return found
        except Exception as error:
            last = error
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"not within {timeout} s: {what}") from last
