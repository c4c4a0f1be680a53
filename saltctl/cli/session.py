"""The session: the settings and stores of one command, and its prompts."""

from __future__ import annotations

import itertools
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from saltctl.cli.formats.text import printable
from saltctl.cli.hints import aws_options_in_force
from saltctl.cli.output import note, warn
from saltctl.cli.signals import rerun_with
from saltctl.commands import hint_of
from saltctl.errors import ConfirmationRequiredError, UsageError
from saltctl.settings import Settings, load_settings
from saltctl.stores.aws_cli import aws_options
from saltctl.urls import has_password, mask_url

if TYPE_CHECKING:
    from saltctl.history.history import History
    from saltctl.registry.registry import Registry
    from saltctl.stores.aws.backup_table import BackupTable
    from saltctl.stores.event_log import EventLog
    from saltctl.stores.heat.dead_letters import DeadLetters
    from saltctl.stores.heat.service_state import ServiceState
    from saltctl.stores.heat.stream import HeatStream
    from saltctl.stores.redis.registry import RedisRegistry

REDIS_URL_HINT = "put the URL into SALTCTL_REDIS_URL, or the password into a file: SALTCTL_REDIS_PASSWORD_FILE"
_MAX_NAMED_RAISES = 200
"""Raised conversations that one command names; it counts all of them. An event has room for fewer."""


class _Named:
    """The first conversations of all that threads add, and their number."""

    def __init__(self) -> None:
        self.first: deque[str] = deque()
        self._numbers = itertools.count()

    def add(self, conversation_id: str) -> None:
        """Count a conversation, and keep the first ids."""
        if next(self._numbers) < _MAX_NAMED_RAISES:
            self.first.append(conversation_id)

    def count(self) -> int:
        """Return the number of all. Call it once, at the end."""
        return next(self._numbers)


@dataclass
class Session:
    """The root's options, and the stores that they lead to, each opened at first use."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    context: str | None = None
    config: Path | None = None
    names_place: bool = True
    """Whether a person is told which context is used; False if the screen of the command says it."""

    @cached_property
    def settings(self) -> Settings:
        """The current settings. On a terminal a context is named, with its servers, before anything is done there.

        Warns if the environment overrides the context of ``--context``.
        """
        url = self.flags.get("redis_url")
        if url and has_password(url):
            raise UsageError(
                "a password must not be given in a flag, where every process list shows it",
                hint=REDIS_URL_HINT,
            )
        settings = load_settings(flags=self.flags, context=self.context, config=self.config)
        aws_options_in_force.set(aws_options(settings))
        if self.context is not None:
            names = [o.split(" ", 1)[1] for o in settings.origins.values() if o.startswith("environment SALTCTL_")]
            if names:
                warn(f"the environment overrides context {self.context}: {', '.join(sorted(set(names)))}")
        if self.names_place and settings.context is not None and sys.stdout.isatty() and sys.stderr.isatty():
            note(place_of(settings))
        return settings

    @property
    def root_options(self) -> list[str]:
        """The options that lead another saltctl to the same servers, in the same environment.

        Values that are refused are left out: an empty one, and a Redis URL with a password, which must not be shown.
        """
        given = {"context": self.context, "config": self.config, **self.flags}
        return [
            word
            for name, value in given.items()
            if value is not None and str(value) and not (name == "redis_url" and has_password(value))
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]

    @cached_property
    def store(self) -> RedisRegistry:
        """The registry in Redis."""
        from saltctl.stores.redis.registry import RedisRegistry

        return RedisRegistry(self.settings, registry_id=self.backup.registry.id)

    @cached_property
    def backup(self) -> BackupTable:
        """The backup table."""
        from saltctl.stores.aws.backup_table import BackupTable

        return BackupTable(self.settings)

    @cached_property
    def event_log(self) -> EventLog:
        """Writes events for ``saltctl incident``."""
        from saltctl.stores.event_log import EventLog, EventsItem

        return EventLog(EventsItem(self.backup))

    @cached_property
    def heat_stream(self) -> HeatStream:
        """The stream of heat reports."""
        from saltctl.stores.heat.stream import HeatStream

        return HeatStream(self.settings)

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of that stream."""
        from saltctl.stores.heat.dead_letters import DeadLetters

        return DeadLetters(self.settings)

    @cached_property
    def service_state(self) -> ServiceState:
        """Notes of rebuilds and of the service."""
        from saltctl.stores.heat.service_state import ServiceState

        return ServiceState(self.settings)

    @cached_property
    def registry(self) -> Registry:
        """The registry over both."""
        from saltctl.registry.registry import Registry

        return Registry.over(self.settings, self.store, self.backup)

    @cached_property
    def history(self) -> History:
        """The histories of all conversations, with the same registry."""
        from saltctl.history.history import History
        from saltctl.stores.aws.messages_table import MessagesTable

        return History.over(self.settings, self.registry, MessagesTable(self.settings, client=self.backup.client))

    @contextmanager
    def noting_raises(self, repair: str = "") -> Iterator[None]:
        """Name the conversations that the block raises to ``saltctl incident``, which finds their raises in the backup.

        That is one event, however many there are and however the block ends. Those that the block repairs without a
        raise are in another one; ``repair`` says how.
        """
        raised, repaired = _Named(), _Named()
        registry = self.registry
        registry.on_raise = raised.add
        # A damaged item is raised, and then completed.
        registry.on_repair = lambda name: None if name in raised.first else repaired.add(name)
        try:
            yield
        finally:
            registry.on_raise = registry.on_repair = lambda _: None
            by = f"by {self.settings.actor}"
            events = (("raise", by, raised), ("repaired", f"{by}: {repair}" if repair else by, repaired))
            for kind, detail, named in events:
                if count := named.count():
                    self.event_log.note(kind, detail, list(named.first), more=count - len(named.first))
            self.event_log.flush()

    def require_consent(self, question: str, confirm: str | None, *, yes: bool = True) -> None:
        """Return if the change is confirmed by an option or at the terminal.

        Args:
            question: names the change.
            confirm: the value of ``--confirm``, which only protected contexts need.
            yes: the value of ``--yes``; True if the change can be undone.

        Raises:
            ConfirmationRequiredError: it is not confirmed. Without a terminal this is raised at once.
        """
        if self.settings.protected:
            name = self.settings.context or ""
            if confirm is None and is_interactive():
                confirm = _ask(f"{question} Context {name} is protected. Type its name to continue: ")
            if confirm != name:
                raise ConfirmationRequiredError(
                    f"context {name} is protected: its name must be confirmed", hint=rerun_with("--confirm", name)
                )
        elif not yes and not is_interactive():
            raise ConfirmationRequiredError(
                f"{question} This cannot be undone. Pass --yes to confirm (no terminal to ask on)",
                hint=hint_of("see first what it would change: --dry-run", rerun_with("--yes")),
            )
        elif not yes and not self.confirms(f"{question} This cannot be undone. Continue?"):
            raise ConfirmationRequiredError("not confirmed; nothing was changed", hint="")

    def confirms(self, question: str) -> bool:
        """Ask at a terminal, where Return means no, and return the answer."""
        return _ask(f"{question} [y/N] ").lower() in ("y", "yes")

    def ask_default_yes(self, question: str) -> bool:
        """Ask at a terminal, where Return means yes, and return the answer; without a terminal return True."""
        return not is_interactive() or _ask(f"{question} [Y/n] ").lower() in ("", "y", "yes")


def place_of(settings: Settings) -> str:
    """Return the context, Redis and the tables, such as ``prod, protected; redis://r1/0; tables a, b``."""
    context = (settings.context or "no context") + (", protected" if settings.protected else "")
    redis = "no Redis" if settings.redis_url is None else mask_url(settings.redis_url)
    return f"{context}; {redis}; tables {settings.backup_table}, {settings.messages_table}"


def session_of(context: typer.Context) -> Session:
    """Return the session that the root created."""
    found = context.find_object(Session)
    return found if found is not None else Session()


def is_interactive() -> bool:
    """Return whether a person can be asked: stdin and stderr are a terminal that is not dumb."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _ask(question: str) -> str:
    sys.stderr.write(printable(question))
    sys.stderr.flush()
    return sys.stdin.readline().strip()
