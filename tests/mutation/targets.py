"""The modules that keep the promise, and for each the tests that must notice a change; the fastest come first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.lua_mutants import lua_mutants
from tests.mutation.mutant import Mutant, numbered
from tests.mutation.python_mutants import python_mutants

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Target:
    """A module or script, its tests, and an expression that leaves some of them out."""

    path: str
    tests: tuple[str, ...]
    expression: str = ""

    def mutants(self) -> Iterator[Mutant]:
        """Yield the mutants, always in the same order."""
        source = (ROOT / self.path).read_text(encoding="utf-8")
        make = lua_mutants if self.path.endswith(".lua") else python_mutants
        return numbered(make(self.path, source))


_REDIS = "tests/stores/redis/test_"
_AWS = "tests/stores/aws/test_"
_SESSION = (f"{_REDIS}merge_commands.py", f"{_REDIS}rebuild_session.py", f"{_REDIS}fence.py")
_REGISTRY = (f"{_REDIS}registry.py", f"{_REDIS}fence.py")
_BACKUP = (f"{_AWS}backup_table.py", f"{_AWS}rebuild_items.py", f"{_AWS}mismatched_responses.py")
_SCAN = (f"{_AWS}scan_parser.py", f"{_AWS}backup_scan.py", f"{_AWS}backup_table.py")
_HISTORY = tuple(f"tests/history/test_{name}.py" for name in ("history", "moved_messages", "history_properties"))
_READS = ("tests/history/pages/test_ordered_merge.py", "tests/history/pages/test_scatter_gather.py", *_HISTORY)
_REBUILD = ("tests/rebuild",)
_LUA = "saltctl/stores/redis/lua"
_ONE_ENGINE = "not [redis"
"""Both engines give the same answers, so one of them is enough here."""
_UNPINNED = f"{_ONE_ENGINE} and not script_is_pinned"
"""The test that pins the SHA-1 of the script notices every change of it, and shows nothing about the change."""


def _redis(path: str, *tests: str, expression: str = _ONE_ENGINE) -> Target:
    return Target(f"saltctl/stores/redis/{path}", tests, expression)


def _aws(path: str, *tests: str) -> Target:
    return Target(f"saltctl/stores/aws/{path}", tests, "not (moto and process)")


TARGETS = (
    Target("saltctl/salting.py", ("tests/test_salting.py",)),
    Target("saltctl/registry/registry.py", ("tests/registry/test_registry.py", "tests/registry/test_raise_faults.py")),
    Target("saltctl/registry/breaker.py", ("tests/registry/test_registry.py",)),
    _redis("lua/lookup.lua", *_REGISTRY, expression=_UNPINNED),
    _redis("lua/merge.lua", *_REGISTRY, *_SESSION),
    _redis("lua/raise.lua", *_REGISTRY, "tests/registry/test_deposed_primary.py"),
    _redis("lua/mark_buckets.lua", *_SESSION, *_REGISTRY),
    _redis("lua/check_marks.lua", *_SESSION, *_REBUILD),
    _redis("lua/set_fence.lua", *_SESSION, *_REGISTRY),
    _redis("registry.py", *_REGISTRY, f"{_REDIS}connections.py", f"{_REDIS}cluster.py"),
    _redis("rebuild_session.py", *_SESSION, f"{_REDIS}cluster.py", *_REBUILD),
    _redis("buckets.py", f"{_REDIS}buckets.py", *_REGISTRY, f"{_REDIS}cluster.py"),
    _redis("merge_commands.py", *_SESSION),
    _redis("connections.py", f"{_REDIS}connections.py", *_REGISTRY, f"{_REDIS}cluster.py", f"{_REDIS}sentinel.py"),
    _redis("dedicated_connection.py", *_SESSION, f"{_REDIS}connections.py", f"{_REDIS}cluster.py"),
    _aws("backup_items.py", *_BACKUP, *_SCAN[:2]),
    _aws("backup_table.py", *_BACKUP, "tests/rebuild/test_checkpoint.py", "tests/rebuild/test_resume.py"),
    _aws("rebuild_items.py", f"{_AWS}rebuild_items.py", "tests/rebuild/test_lease.py"),
    _aws("registry_item.py", f"{_AWS}registry_item.py", *_BACKUP, "tests/registry/recovery/test_recover.py"),
    _aws("scan_parser.py", *_SCAN),
    _aws("backup_scan.py", *_SCAN),
    _aws("messages_table.py", f"{_AWS}messages_table.py"),
    Target("saltctl/rebuild/lease.py", ("tests/rebuild/test_lease.py", "tests/rebuild/test_lease_contention.py")),
    Target("saltctl/rebuild/merge_buffer.py", _REBUILD),
    Target(
        "saltctl/rebuild/checkpoint.py", ("tests/rebuild/test_checkpoint.py", "tests/rebuild/test_resume.py", *_REBUILD)
    ),
    Target("saltctl/stores/saved_state.py", ("tests/rebuild/test_checkpoint.py",)),
    Target("saltctl/rebuild/rebuild.py", _REBUILD),
    Target("saltctl/history/pages/cursor.py", ("tests/history/pages/test_cursor.py", *_HISTORY)),
    Target("saltctl/history/pages/ordered_merge.py", _READS),
    Target("saltctl/history/pages/plan.py", _READS),
    Target("saltctl/history/pages/scatter_gather.py", (*_READS, "tests/history/test_history_faults.py")),
    Target("saltctl/history/pages/round.py", (*_READS, "tests/history/pages/test_hedging.py")),
    Target("saltctl/history/pages/hedging.py", ("tests/history/pages/test_hedging.py",)),
    Target("saltctl/history/pages/sharing.py", ("tests/history/pages/test_sharing.py",)),
    Target("saltctl/history/writing.py", _HISTORY),
    Target(
        "saltctl/history/history.py", (*_HISTORY, "tests/history/test_history_faults.py", "tests/history/test_find.py")
    ),
    Target("saltctl/history/find.py", ("tests/history/test_find.py", "tests/history/test_history_faults.py")),
    Target("saltctl/detection/detector.py", ("tests/detection/test_detector.py", "tests/detection/test_service.py")),
    Target(
        "saltctl/detection/service.py", ("tests/detection/test_service.py", "tests/detection/test_service_processes.py")
    ),
    Target("saltctl/detection/fence_watcher.py", ("tests/detection/test_fence_watcher.py",)),
)
