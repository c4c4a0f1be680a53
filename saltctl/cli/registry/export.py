"""``saltctl registry discover --from-export``: the options, the progress and the notes."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.files import require_touchable
from saltctl.cli.formats.text import counted
from saltctl.cli.jobs import drain
from saltctl.cli.output import note, warn
from saltctl.cli.progress import PrintLine, Show, Step, keep_warning, show_progress
from saltctl.cli.session import Session
from saltctl.cli.signals import rerun_hint, rerun_with
from saltctl.commands import hint_of
from saltctl.errors import IncompleteError, RefusedError, UsageError

if TYPE_CHECKING:
    from saltctl.registry.discover import Discovery
    from saltctl.registry.export.discovery import Event
    from saltctl.registry.export.manifest import Manifest

FromExport = Annotated[
    str | None, option.text("--from-export", "Read this export of the table to S3, and not the table.", "URL")
]
FromTable = Annotated[
    str | None,
    option.text("--from-table", "The table that the export has to be of; the messages table if omitted.", "NAME|ARN"),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        parser=option.parse_file,
        help="Keep what was read of an export in this file, and resume from it.",
    ),
]
Sql = Annotated[bool, typer.Option("--sql", help="Print the query for Athena, Spark or DuckDB, and run nothing.")]
SqlTable = Annotated[
    str | None, option.text("--sql-table", "The table in that query; messages_export if omitted.", "NAME")
]
_DOING = "reading the export"
_MEND = "copy the damaged files again from where they were exported to, or make another export"
_MAX_NAMED = 100
"""Damaged files that are named; all of them are counted."""


def check_options(url: str | None, *, sql: bool, **given: bool) -> None:
    """Refuse options that have no effect together; ``given`` has whether each other option was given.

    Raises:
        UsageError: naming two of them.
    """
    of_export, of_sql = {"checkpoint", "restart", "from_table"}, {"sql_table"}
    of_scan = {"cost", "eventual", "segments"}
    for name, is_given in given.items():
        word = f"--{name.replace('_', '-')}"
        if not is_given:
            continue
        if (name in of_export and not url) or (name in of_sql and not sql):
            raise UsageError(f"{word} needs {'--sql' if name in of_sql else '--from-export'}", hint="leave it out")
        if sql and name not in of_sql:
            raise UsageError(f"--sql only prints a query: it cannot take {word}", hint="leave one of them out")
        if url and name in of_scan:
            raise UsageError(f"--from-export scans no table: it cannot take {word}", hint="leave one of them out")
    if given["restart"] and not given["checkpoint"]:
        raise UsageError("--restart needs a --checkpoint to start over", hint="leave it out")
    if sql and url:
        raise UsageError("--sql reads no export: it cannot take --from-export", hint="leave one of them out")


def print_query(session: Session, table: str | None) -> None:
    """Print the query for the keys of the messages table."""
    from saltctl.registry.export.query import TABLE, salts_query
    from saltctl.stores.aws.messages_table import MessagesTable

    # A history needs Redis.
    sys.stdout.write(salts_query(MessagesTable(session.settings).keys.partition_key, table or TABLE))


def discover_export(
    session: Session,
    url: str,
    checkpoint: Path | None,
    *,
    restart: bool,
    any_salting: bool,
    from_table: str | None,
) -> Discovery:
    """Return what an export shows, compared with the backup; show progress, and name damaged files.

    ``from_table``: the name or the ARN of the table that the export has to be of; None is the messages table.
    """
    from saltctl.history.models import message_id_of
    from saltctl.registry.discover import Discovery
    from saltctl.registry.export.discovery import ExportDiscovery, scope_of
    from saltctl.registry.export.manifest import read_manifest
    from saltctl.stores.export.database import open_database, require_duckdb
    from saltctl.stores.export.files import open_files, read_file

    require_duckdb()
    if checkpoint is not None:
        require_touchable(checkpoint, "checkpoint", hint="give a file in a writable directory")
    files = open_files(url, session.settings)
    manifest = read_manifest(lambda name, most: read_file(files, name, most), files.where)
    _check_table(session, manifest, from_table)
    session.backup.check_table()
    store, attribute = session.history.store, session.history.id_attribute
    keys = store.keys
    with ExitStack() as stack:
        file = checkpoint or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saltctl-"))) / "export"
        database = stack.enter_context(open_database(file, scope_of(manifest, keys, attribute), restart=restart))
        message_id = partial(message_id_of, keys=keys, attribute=attribute)
        job = ExportDiscovery(files, manifest, database, keys, message_id, attribute)
        events = job.run(session.backup, cap=session.settings.max_n_cap, any_salting=any_salting)
        show, keep = stack.enter_context(show_progress(_DOING))
        try:
            return drain(events, Discovery, _EventPrinter(show, keep))
        except IncompleteError as exc:
            raise exc.with_hint(hint_of(_MEND, rerun_hint())) from exc


def _check_table(session: Session, manifest: Manifest, from_table: str | None) -> None:
    """Say which table the export is of, and until when.

    Raises:
        RefusedError: it is of another table than ``from_table``, or of another account or Region than the messages
            table if ``from_table`` is no ARN.
    """
    from saltctl.stores.aws.messages_table import MessagesTable

    found = manifest.table_arn
    items = counted(manifest.items, "item")
    note(f"an export of table {found}: {items}, as of {manifest.time}; later writes are not in it")
    if from_table is not None and from_table.startswith("arn:"):
        if found != from_table:
            raise _other_table(found, from_table, given=True)
        return
    messages = MessagesTable(session.settings, client=session.backup.client)
    name, arn = from_table or messages.name.rpartition("/")[2], messages.arn()
    if manifest.table != name:
        raise _other_table(found, name, given=from_table is not None)
    if not arn:
        warn(f"DescribeTable shows no ARN of table {messages.where}, so the account and Region are not compared")
    elif found.rpartition("/")[0] != arn.rpartition("/")[0]:
        raise _other_table(found, f"{arn.rpartition('/')[0]}/{name}", given=from_table is not None)


def _other_table(found: str, expected: str, *, given: bool) -> RefusedError:
    hint = "check the URL; --from-table takes the ARN of the table that the export has to be of"
    if not given:
        hint = hint_of("if its conversations are those of this registry", rerun_with("--from-table", found))
    return RefusedError(f"the export is of table {found!r}, and not of {expected!r}", hint=hint)


@dataclass
class _EventPrinter:
    """Shows progress, and names damaged files."""

    show: Show
    keep_line: PrintLine
    named: int = 0

    def __call__(self, event: Event) -> None:
        from saltctl.registry.export.discovery import DamagedFile, ExportProgress, ExportResumed

        match event:
            case ExportProgress():
                files = f"{event.files:,} of {counted(event.all_files, 'file')}"
                self.show(Step(_DOING, event.items, ("item", "items"), event.total, exact=True, more=(files,)))
            case ExportResumed():
                of = f"{counted(event.files, 'file')}, {counted(event.items, 'item')}"
                self.keep_line(f"resuming from the checkpoint: {of}; --restart starts over")
            case DamagedFile():
                self.named += 1
                if self.named <= _MAX_NAMED:
                    keep_warning(self.keep_line, f"damaged: {event.name}: {event.problem}")
