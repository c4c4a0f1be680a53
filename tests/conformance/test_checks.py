"""The checks find each careless client, and name its rule. Careful ones pass in tests/cli/local/test_conform.py."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import saltctl.conformance
from saltctl.cli.guide.topics import topics
from saltctl.conformance.client import ClientProcess
from saltctl.conformance.python_client import PythonClient
from saltctl.conformance.stage import Stage
from saltctl.conformance.trial import Checked, run_trial
from saltctl.local.environment import LocalEnvironment
from saltctl.testing import local_environment
from tests.conformance.variants import BROKEN, EXHAUSTIVE, LONG, Direct, NeverLooksUp


@pytest.fixture(scope="module")
def environment() -> Iterator[LocalEnvironment]:
    """Real servers. A check restarts and flushes Redis, so that no other module shares them."""
    with local_environment() as running:
        yield running


@pytest.fixture
def stage(environment: LocalEnvironment) -> Iterator[Stage]:
    """A registry of the test's own."""
    with Stage(environment, 1) as stage:
        yield stage


def tried(stage: Stage, variant: type[PythonClient], name: str) -> Checked:
    """The outcome of one check."""
    (checked,) = run_trial(stage, lambda: Direct(variant()), [name])
    return checked


def cases() -> Iterator[object]:
    """Each variant, its check and its rule; those that take long, or are like another, are long."""
    for variant, name, rule in BROKEN:
        marks = [pytest.mark.slow]
        if variant in LONG + EXHAUSTIVE:
            marks.append(pytest.mark.long)
        if variant in EXHAUSTIVE:
            marks.append(pytest.mark.exhaustive)
        yield pytest.param(variant, name, rule, id=f"{variant.__name__}-{name}-{rule}", marks=marks)


@pytest.mark.parametrize(("variant", "name", "rule"), list(cases()))
def test_a_careless_client_is_found(stage: Stage, variant: type[PythonClient], name: str, rule: str) -> None:
    """The rule that it breaks is among those that are named."""
    checked = tried(stage, variant, name)
    assert not checked.passed
    assert rule in {finding.rule for finding in checked.findings}, checked.findings
    assert all(finding.step and finding.asked and finding.expected for finding in checked.findings)


@pytest.mark.slow
def test_a_client_that_cannot_look_up(stage: Stage) -> None:
    """It is found once, and not by every check."""
    first, *others = run_trial(stage, lambda: Direct(NeverLooksUp()))
    assert [(f.rule, f.answered) for f in first.findings] == [("2.3", "every lookup is an error: no key")]
    assert not any(other.ran or other.passed or other.findings for other in others)


@pytest.mark.slow
def test_what_cannot_be_judged_is_said(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that cannot be stopped, as one in a container, passes with a note."""
    monkeypatch.setattr(stage.aws.held, "wait", lambda _: True)
    (checked,) = run_trial(stage, lambda: Direct(PythonClient()), ["stall"])
    assert checked.passed
    assert checked.note == "rule 7.3 was not judged: the client could not be stopped"


MUTANTS = {
    "late": (
        "replies",
        "2.6",
        "connection?.socket.destroy();\n",
        'if (error.message.endsWith("in time")) throw error;',
    ),
    "unprocessed": ("backup", "4.3", "answer.UnprocessedKeys[config.backup_table]?.Keys", "null"),
    "one page": ("reads", "8.3", "while (request.ExclusiveStartKey)", "while (false)"),
    "new id": ("registry", "3.2", "registryId = id;", "registryId ??= id;"),
    "restored table": ("registry", "3.4", "if (claimed.identity !== expected ||", "if (false &&"),
    "query": ("reads", "8.3", "ConsistentRead: true, ScanIndexForward", "ScanIndexForward"),
    "empty page": ("reads", "8.3", "page.LastEvaluatedKey", "page.Items.length ? page.LastEvaluatedKey : undefined"),
    "retry": ("replies", "4.1", "await elementOfRedis(id)", "await elementOfRedis(id).catch(() => elementOfRedis(id))"),
    "last #": ("writes", "7.1", "crc32(message_id)", 'crc32(sort_key.split("#").pop())'),
    "describe": ("backup", "3.4", "until: performance.now() + 60_000", "until: 0"),
    "13 digits": ("registry", "3.3", "([0-9a-f]{12}|[0-9a-f]{16})", "[0-9a-f]{12,16}"),
    "old lookup": ("stall", "7.3", "if (uptime() - began >=", "if (0 *"),
}
"""What a client in JavaScript does wrong: the check that finds it, its rule, and the change in client.mjs."""
SURPLUS = (
    'if (!state.waiting) fail(new Error("a surplus reply"));',
    'if (reply[1] !== state.data.length) throw new Error("a surplus reply");',
)
"""Lines that notice such a reply in time; the mutant of rule 2.6 has none of them."""

EXHAUSTIVE_MUTANTS = {"query", "empty page", "retry", "last #", "13 digits", "describe"}


def mutants() -> Iterator[object]:
    """Each mutant; some are like others that the gate runs."""
    for name, mutant in MUTANTS.items():
        yield pytest.param(*mutant, id=name, marks=[pytest.mark.exhaustive] if name in EXHAUSTIVE_MUTANTS else [])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("name", "rule", "old", "new"), list(mutants()))
def test_a_careless_client_in_javascript_is_found(
    stage: Stage, tmp_path: Path, name: str, rule: str, old: str, new: str
) -> None:
    """As a process, over its own connections."""
    if shutil.which("node") is None:
        assert "SALTCTL_TEST_NODE" not in os.environ
        pytest.skip("there is no node")
    source = Path(__file__).with_name("client.mjs").read_text(encoding="utf-8")
    for text, changed in ((old, new), *((line, "") for line in SURPLUS if rule == "2.6")):
        assert source.count(text) == 1
        source = source.replace(text, changed)
    client = tmp_path / "client.mjs"
    client.write_text(source, encoding="utf-8")
    (checked,) = run_trial(stage, lambda: ClientProcess(["node", str(client)], os.environ, 10.0), [name])
    assert rule in {finding.rule for finding in checked.findings}, checked.findings


def test_each_rule_that_a_check_names_exists() -> None:
    """The rules are those of the topic, numbered without a gap."""
    text = topics()["client-protocol"]
    rules = re.findall(r"^  ([1-9]\.[1-9])  ", text, re.MULTILINE)
    assert rules == sorted(set(rules))
    sources = [path.read_text(encoding="utf-8") for path in Path(saltctl.conformance.__file__).parent.rglob("*.py")]
    named = {rule for source in sources for rule in re.findall(r'(?<!: )"([1-9]\.[1-9])"', source)}
    assert named
    assert named <= set(rules)
    assert {rule for _, _, rule in BROKEN} | {rule for _, rule, _, _ in MUTANTS.values()} <= named
