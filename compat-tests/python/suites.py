"""Runs the Python packages' own tests, unchanged, against three nodes of ours.

Usage: suites.py DQ_SERVER SOURCES [NAME...]     SOURCES: where the unpacked source packages are

Some of the tests know the addresses 127.0.0.1:9001 to 9003 by heart, so run this in a network of its
own: `scripts/python-suites` does. `suites.toml` says what has to come out; anything else, a test more
or less included, is an error.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import dqlitetestlib
from dqlitewire import NodeRole

HERE = Path(__file__).resolve().parent
NODES = ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"]
SUITE_DEADLINE_S = 600


@contextlib.contextmanager
def cluster(program: str, options: list[str]) -> Iterator[None]:
    """Three voters, the first of which leads."""
    with tempfile.TemporaryDirectory(prefix="dq-python-") as directory, contextlib.ExitStack() as stack:
        for number, address in enumerate(NODES, 1):
            command = [program, "run", "--id", str(number), "--address", address]
            command += ["--dir", f"{directory}/{number}", "--roles", "off"]
            command += ["--network-latency-ms", "50", *options]
            if number > 1:
                command += ["--join", NODES[0]]
            log = stack.enter_context(open(f"{directory}/log{number}", "wb"))
            node = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(stop, node)
        asyncio.run(form())
        yield


def stop(node: subprocess.Popen[bytes]) -> None:
    node.terminate()
    try:
        node.wait(dqlitetestlib.DEADLINE_S)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


async def form() -> None:
    control = dqlitetestlib.TestClusterControl(NODES)

    async def all_joined() -> bool:
        return len(await control.cluster_info()) == len(NODES)

    await dqlitetestlib.eventually(all_joined, "three members")
    for node_id in (2, 3):
        # Members are listed a moment before the change that made them is over.
        await dqlitetestlib.eventually(lambda: control.promote(node_id), f"node {node_id} votes")
        await control.wait_for_role(node_id, NodeRole.VOTER)


def run_suite(suite: dict, program: str, sources: Path) -> list[str]:
    """Runs one suite; what is not as it should be."""
    [source] = sources.glob(f"{suite['package']}-[0-9]*/")
    environment = os.environ | {
        "DQ_SERVER": program,
        "DQLITE_TEST_CLUSTER": NODES[0],
        "DQLITE_TEST_CLUSTER_NODES": ",".join(NODES),
        "PYTHONPATH": str(HERE),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "dqlitetestlib.fixtures"]
        command += ["-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}"]
        command += ["-o", "asyncio_default_fixture_loop_scope=function"]
        command += [*suite.get("pytest", []), *suite["tests"]]
        done = subprocess.run(
            command,
            cwd=source,
            env=environment,
            timeout=SUITE_DEADLINE_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if not report.exists():
            return [f"pytest did not run:\n{done.stdout}"]
        passed, others = results(report)
        for racing in suite.get("races", []):
            if others.get(racing["test"]) == "failure":
                print(f"{racing['test']} failed: once more", flush=True)
                again = [*command, "-k", racing["test"].rpartition(".")[2]]
                subprocess.run(again, cwd=source, env=environment, timeout=SUITE_DEADLINE_S, check=False)
                alone, still = results(report)
                if alone == 1 and racing["test"] not in still:
                    del others[racing["test"]]
                    passed += 1

    wrong = []
    expected = {fails["test"] for fails in suite.get("fails", [])}
    failed = {name for name, kind in others.items() if kind in ("failure", "error")}
    skipped = {name for name, kind in others.items() if kind == "skipped"}
    wrong += [f"should pass: {name}" for name in sorted(failed - expected)]
    wrong += [f"should fail, or be taken from the list: {name}" for name in sorted(expected - failed)]
    if passed != suite["passed"]:
        wrong.append(f"{suite['passed']} tests should pass, {passed} do")
    if len(skipped) != suite.get("skipped", 0):
        wrong.append(f"{suite.get('skipped', 0)} may be skipped, not {sorted(skipped)}")
    verdict = "WRONG" if wrong else "ok"
    print(
        f"{suite['name']:28} {passed:5} passed, {len(failed)} failed, {len(skipped)} skipped: {verdict}",
        flush=True,
    )
    return [*wrong, done.stdout] if wrong else []


def results(report: Path) -> tuple[int, dict[str, str]]:
    """How many passed, and what became of the others."""
    passed, others = 0, {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        kind = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), None)
        if kind is None:
            passed += 1
        else:
            others[name] = kind
    return passed, others


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    program, sources = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    names = sys.argv[3:]
    suites = tomllib.loads((HERE / "suites.toml").read_text())["suite"]
    if unknown := set(names) - {suite["name"] for suite in suites}:
        sys.exit(f"no such suites: {sorted(unknown)}")
    bad = False
    for suite in suites:
        if names and suite["name"] not in names:
            continue
        with cluster(program, suite["options"]):
            for line in run_suite(suite, program, sources):
                bad = True
                print(f"    {line}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
