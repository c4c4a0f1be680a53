"""``saltctl local shell|run|load``: a command inside a whole environment on loopback, and a load for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.guide.groups import new_group
from saltctl.cli.local.shell import shell_command
from saltctl.cli.output import columns_of, note, print_result
from saltctl.cli.session import session_of
from saltctl.cli.signals import Terminated
from saltctl.errors import UsageError
from saltctl.stores.loopback import INSIDE

if TYPE_CHECKING:
    from saltctl.local.environment import LocalEnvironment

group = new_group("Try saltctl on your own machine: a real Valkey and moto, seeded, gone at exit.")
TERMINATE_SECONDS = 5.0
LOAD_COLUMNS = columns_of(
    "writes seconds reports dropped written failed hottest", reports="heat reports", written="stored"
)
HOTTEST_COLUMNS = columns_of(
    "conversation_id rate max_n partitions", rate="writes/s", partitions="partitions written to"
)


@group.command("shell")
def shell() -> None:
    """Open a shell in which saltctl and the AWS tools talk to local servers only.

    Starts a real Valkey with its AOF on and moto's server on loopback, with a few hundred conversations.
    Everything is stopped and removed when the shell ends. The shell is $SHELL if that is bash, zsh, fish or sh, and
    reads none of your start-up files; its prompt is marked. Inside, saltctl refuses (78) every Redis and every AWS
    endpoint that is not on loopback.

    \b
    Examples:
      saltctl local shell
    """
    with _seeded_environment() as environment:
        note("Type exit to leave; that stops the servers and deletes their data. Try:")
        for line in (
            "saltctl registry list --sort n --limit 5",
            "saltctl registry get conv_hot_12 conv_0001",
            "saltctl registry set conv_0001 4 --reason 'trying it out'",
            "saltctl rebuild",
        ):
            note(f"  {line}")
        command, variables = shell_command(os.environ.get("SHELL"), _variables(environment), environment.directory)
        code = _run(command, variables, signal.SIGHUP)  # as of a terminal that is gone: a shell ignores SIGTERM
    raise typer.Exit(code)


@group.command("run", context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD", help="The command and its arguments.")],
) -> None:
    """Run one command inside a local environment of its own, and exit as it does.

    The servers and, on Linux, the command end with saltctl, also if SIGKILL ends it: the command gets SIGTERM then.

    Contexts, AWS profiles and proxies of the caller are not set for it. saltctl and its library refuse (78) every
    Redis and every AWS endpoint that is not on loopback.

    \b
    Examples:
      saltctl local run -- saltctl registry list --limit 3
      saltctl local run -- sh -c 'saltctl registry set conv_0001 4 --yes && saltctl registry get conv_0001'
    """
    with _seeded_environment() as environment:
        code = _run(command, _variables(environment), signal.SIGTERM)
    raise typer.Exit(code)


@group.command("load")
def load(
    context: typer.Context,
    rate: Annotated[int, option.number("--rate", "Writes a second over all servers.", 1, 100_000)] = 5000,
    servers: Annotated[int, option.number("--servers", "Servers that count the writes.", 1, 200)] = 10,
    seconds: Annotated[float, option.duration("--duration", "How long; 30s if omitted.")] = 30.0,
    conversations: Annotated[
        int, option.number("--conversations", "Conversations, Zipf-distributed.", 1, 100_000)
    ] = 1000,
    output: option.Output = None,
) -> None:
    """Write to Zipf-distributed conversations, to watch detection and raises.

    Local servers only. Run the service at the same time, and watch: saltctl service status. The servers' meters
    count all writes; about twenty a second are stored, in the partitions that lookups name.

    \b
    Examples:
      saltctl local load
      saltctl local load --rate 20000 --servers 50 --duration 2m
    """
    import random

    from saltctl.detection.write_meter import WriteMeter
    from saltctl.local.load import Load, LoadOptions, LoadReport, require_local
    from saltctl.stores.aws.messages_table import MessagesTable

    session = session_of(context)
    settings = session.settings
    require_local(settings)
    options = LoadOptions(rate, servers, seconds, conversations)
    meters = [WriteMeter.open(settings) for _ in range(servers)]
    report = LoadReport()
    try:
        load = Load(options, meters, session.registry, MessagesTable(settings), rng=random.Random())
        for report in load.run():
            top = ", ".join(f"{row['conversation_id']} {row['rate']}/s N {row['max_n']}" for row in report.hottest[:3])
            note(f"{report.seconds:.0f} s: {report.writes:,} writes, {report.reports:,} heat reports; {top}")
    finally:
        for meter in meters:
            meter.close()
    print_result(asdict(report), output, columns=LOAD_COLUMNS, lists={"hottest": HOTTEST_COLUMNS})


@contextmanager
def _seeded_environment() -> Iterator[LocalEnvironment]:
    """Start and seed a local environment, and describe it on stderr."""
    from saltctl.local.environment import LocalEnvironment

    started = time.monotonic()
    with LocalEnvironment() as environment:
        seeded = environment.seed()
        note(
            f"local environment ready in {time.monotonic() - started:.1f} s: "
            f"Valkey on 127.0.0.1:{environment.redis.port}, moto on 127.0.0.1:{environment.moto.port}, "
            f"{seeded.conversations} conversations ({seeded.salted} salted), {seeded.messages} messages"
        )
        yield environment


def _variables(environment: LocalEnvironment) -> dict[str, str]:
    """Return the variables of a command inside the environment, which keep it on loopback."""
    variables = environment.variables() | {INSIDE: "1"}
    # The directory of this saltctl comes first, so that the command finds the same one.
    return variables | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])}


def _run(command: Sequence[str], variables: Mapping[str, str], at_death: signal.Signals) -> int:
    """Run a command to its end; signals that end saltctl are forwarded to it and, on Linux, to its descendants.

    After SIGKILL nothing can be forwarded: then the command gets the signal ``at_death`` from Linux.
    """
    from saltctl.local.servers import command_bound_to_parent

    if shutil.which(command[0], path=variables["PATH"]) is None:
        raise UsageError(
            f"cannot run {command[0]!r}: it is not found, or not executable",
            hint="saltctl local run -- saltctl registry list",
        )
    child = subprocess.Popen(command_bound_to_parent(command, at_death), env=variables)
    # Ctrl-C reaches the whole foreground process group; the command decides how to react.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = child.wait()
    except Terminated as exc:
        for pid in (*_descendants(child.pid), child.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, exc.signum)
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        try:
            child.wait(timeout=TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return code if code >= 0 else 128 - code


def _descendants(pid: int) -> list[int]:
    """Return the processes below a process; on Linux only."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            # The name, in parentheses, may contain anything; state and parent follow.
            children[int(stat.read_bytes().rpartition(b")")[2].split()[1])].append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children[parent]
    return found[1:]
