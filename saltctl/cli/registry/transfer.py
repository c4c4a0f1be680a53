"""``saltctl registry export|import``, and the entries of either side, for exports and lists."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, BinaryIO, Literal

import typer

from saltctl.cli import option
from saltctl.cli.formats.listing import tsv_row
from saltctl.cli.formats.sentences import import_sentence
from saltctl.cli.formats.text import counted, printable_json
from saltctl.cli.jobs import damage_hint, drain
from saltctl.cli.output import columns_of, note, print_fields, print_result, to_json, warn
from saltctl.cli.progress import Step, show_progress
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline
from saltctl.errors import AwsUnavailableError, ExitCode, IncompleteError, UnavailableError, UsageError
from saltctl.stores.contracts import raise_reasons
from saltctl.stores.contracts.entries import Entry, recent_n_of
from saltctl.stores.contracts.registry import MAX_DAMAGED_LISTED, DamagedEntry
from saltctl.stores.redis.buckets import UNREADABLE

MAX_PRINTED = 20
"""Raises and bad lines that are printed for people."""
COLUMNS = columns_of("read raised unchanged completed skipped seconds dry_run raises bad_lines")
RAISE_COLUMNS = columns_of("conversation_id before after")
_VALUE = '(?:"(?:[^"]|"")*")?'
_QUOTED_CSV = re.compile(f"{_VALUE}(?:,{_VALUE})*")
Source = Literal["redis", "backup"]
HOW_TO_EXPORT = "to create a file: saltctl registry export > registry.jsonl"


def read_source(session: Session, source: Source | None) -> Entries:
    """Return the entries of a source; by default of Redis if it is verified, else of the backup, with a warning.

    An unverified Redis is read if it is asked for: with a warning, too.
    """
    if source == "backup":
        return Entries(session, "backup")
    try:
        if all(session.store.verified().values()):
            return Entries(session, "redis", verified=True)
        if source == "redis":
            warn("Redis is not verified and may lack entries; --source backup has them all", "saltctl rebuild")
            return Entries(session, "redis")
        warn("Redis is not verified, so these entries come from the backup", "saltctl rebuild")
    except AwsUnavailableError as exc:
        if source != "redis":
            raise
        # The id of the registry is not known, so its fences cannot be checked; SALTCTL_REGISTRY_ID would help.
        warn(f"it is unknown whether Redis is verified, so entries may be missing: {exc.message}", exc.hint)
        return Entries(session, "redis")
    except UnavailableError as exc:
        if source == "redis":
            raise
        warn(f"these entries come from the backup: {exc.message}", exc.hint)
    return Entries(session, "backup")


@dataclass
class Entries:
    """The entries of one source, as (conversation id, entry), in no order. Iterate once.

    ``verified``: Redis is verified, and reading it fails if it does not stay so. ``damaged`` counts the entries that
    were left out so far, the first of which are ``damaged_items``.
    """

    session: Session
    source: Source
    verified: bool = False
    damaged: int = 0
    damaged_items: list[DamagedEntry] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Read the entries; raises ReadBrokenError if Redis lost some meanwhile."""
        if self.source == "redis":
            for conversation_id, entry in self.session.store.entries(verified=self.verified):
                if entry == UNREADABLE:
                    self._leave_out([DamagedEntry(conversation_id, "its value in Redis is not a salt count")])
                else:
                    yield conversation_id, entry
            return
        for page in self.session.backup.scan(4):
            self._leave_out(page.damaged)
            for conversation_id, entry, _ in page.entries:
                yield conversation_id, entry

    def _leave_out(self, items: list[DamagedEntry]) -> None:
        self.damaged += len(items)
        self.damaged_items += items[: MAX_DAMAGED_LISTED - len(self.damaged_items)]

    def check_complete(self) -> None:
        """Name what was left out, and end the command with 4, if that is anything."""
        for item in self.damaged_items:
            note(f"left out {item.conversation_id!r}: {item.problem}")
        if self.damaged:
            side = "Redis" if self.source == "redis" else "the backup"
            hint = damage_hint(self.damaged_items, self.damaged)
            raise IncompleteError(f"damaged entries of {side}, left out: {self.damaged:,}", hint=hint)


def export(context: typer.Context, source: option.Source = None, timeout: option.Timeout = 0.0) -> None:
    """Write every entry to stdout as a line of JSON, sorted by id.

    Exports of the same registry are identical, whatever their source, so a diff of two shows the entries that differ.
    Memory is bounded: large registries are sorted through temporary files.

    \b
    Examples:
      saltctl registry export
      saltctl registry export --source backup
    """
    from saltctl.registry.transfer import sort_entries

    session = session_of(context)
    count = 0
    with deadline(timeout):
        entries = read_source(session, source)
        for conversation_id, entry in sort_entries(entries):
            count += 1
            sys.stdout.write(_line_of(conversation_id, entry))
        sys.stdout.flush()
    note(f"entries: {count:,}, from {'Redis' if entries.source == 'redis' else 'the backup'}")
    entries.check_complete()


def _line_of(conversation_id: str, entry: Entry) -> str:
    """Return the line of an entry. Only that of a cooled conversation has more than its max_n."""
    if isinstance(entry, int):
        return f'{{"conversation_id": {_quoted(conversation_id)}, "max_n": {entry}}}\n'
    record = {"conversation_id": conversation_id, "max_n": entry.max_n, "write_n": entry.write_n}
    record |= {"recent_n": recent_n_of(entry), "recent_from": entry.boundary}
    return printable_json(to_json(record)) + "\n"


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isascii() and quoted.isprintable() else printable_json(quoted)


def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSON lines, TSV, or CSV of Athena; - is stdin.")],
    rate: Annotated[
        float | None, option.number("--rate", "The largest number of raises a second.", 0.1, 10**9, whole=False)
    ] = 500.0,
    reason: option.Reason = raise_reasons.IMPORTED,
    timeout: option.Timeout = 0.0,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Raise every conversation of an export, a list in jsonl or tsv, or a query, to at least its max_n there.

    Never lowers an N, and does not change conversations that are not in the file. Lines that are not valid
    entries are listed and skipped, and the exit code is 4. After an interruption, run the same command again.
    The query is that of discover --sql. CSV is taken if each value is in quotes, as in the results of Athena.

    \b
    Examples:
      saltctl registry import registry.jsonl --dry-run
      saltctl registry import registry.jsonl --rate 100 --reason "from staging" --yes
    """
    from saltctl.registry.transfer import Import, ImportOptions, ImportReport

    session = session_of(context)
    settings = session.settings
    settings.require_redis_url()
    options = ImportOptions(cap=settings.max_n_cap, reason=reason, rate=rate, dry_run=dry_run)
    with open_lines(file) as opened:
        lines, parse = read_ahead(opened, file)
        if not dry_run:
            session.require_consent("Raise the conversations of the file?", confirm, yes=yes)
        with deadline(timeout):
            session.backup.check_table()
            session.backup.check_registry()
            job = Import(lines, session.registry, session.backup, options, parse=parse)
            with session.noting_raises(), show_progress("importing") as (show, _):
                report = drain(
                    job.run(),
                    ImportReport,
                    lambda now: show(Step("importing", now.read, more=(f"{now.raised:,} of them raised",))),
                )
    record = asdict(report)
    shown = record | {"raises": record["raises"][:MAX_PRINTED]}
    tables, more = {"raises": RAISE_COLUMNS}, report.raised - len(shown["raises"])
    print_result(
        record,
        output,
        columns=COLUMNS,
        human_view=lambda screen: print_fields(shown, COLUMNS[:-1], tables, more),
        sentence=import_sentence(report),
    )
    for bad in report.bad_lines[:MAX_PRINTED]:
        warn(f"line {bad.line} was skipped: {bad.problem}")
    for failure in report.failures[:MAX_PRINTED]:
        warn(f"{failure['conversation_id']} could not be raised: {failure['problem']}")
    if report.skipped:
        others = "the others are valid" if dry_run else "the others are imported"
        warn(f"lines skipped: {report.skipped:,}; {others}. Fix the skipped lines and run the import again")
    if report.failed:
        warn(f"not raised: {counted(report.failed, 'entry', 'entries')}; repair them, and run the import again")
    if report.skipped or report.failed:
        raise typer.Exit(ExitCode.INCOMPLETE)


@dataclass
class _Lines:
    """The lines of a file: ``blank`` empty ones, then one that was read already, then the rest."""

    blank: int
    line: bytes
    rest: BinaryIO

    def readline(self, limit: int, /) -> bytes:
        """Return the next line, of at most ``limit`` bytes."""
        if self.blank:
            self.blank -= 1
            return b"\n"
        line, self.line = self.line, b""
        return line or self.rest.readline(limit)


def read_ahead(opened: BinaryIO, file: str) -> tuple[_Lines, Callable[[bytes], object]]:
    """Return the lines of a file, and the parser of one of them: JSON or, below a header, TSV or Athena's CSV.

    Raises:
        UsageError: the file is empty, or its first line is neither an entry nor such a header. Nothing is imported
            then: it is another file, or in a format that is not for programs.
    """
    from saltctl.registry.transfer import MAX_LINE_BYTES, is_entry, json_record

    blank = 0
    while (line := opened.readline(MAX_LINE_BYTES)) and not line.strip():
        blank += 1
    text = (line if blank else line.removeprefix(b"\xef\xbb\xbf")).decode(errors="replace").rstrip("\n")
    header = text.split("\t")
    if {"conversation_id", "max_n"} <= set(header):
        return _Lines(blank + 1, b"", opened), lambda line: _record(line, tsv_row, header)
    if {"conversation_id", "max_n"} <= set(quoted := _quoted_csv(text)):
        return _Lines(blank + 1, b"", opened), lambda line: _record(line, _csv_row, quoted)
    try:
        record = json_record(text.encode())
    except ValueError:
        record = None
    if isinstance(record, dict) and is_entry(record.keys()):
        return _Lines(blank, line, opened), json_record
    problem = f"line {blank + 1} is neither JSON with conversation_id and max_n nor a header of TSV or CSV with both"
    hint = HOW_TO_EXPORT
    if not line:
        problem = "it is empty, as the export of an empty registry is"
    elif text.startswith("["):
        problem = "it is one JSON document, not lines of JSON: write it with -o jsonl"
    elif "," in text and "conversation_id" in text.split(","):
        problem = (
            "it is CSV without quotes, which changes ids that look like formulas: write it with -o jsonl or -o tsv"
        )
        if "highest_salt" in text:  # the query
            problem = "it is CSV without quotes around each value, so other programs may have changed ids in it"
            hint = "write it with quotes, as DuckDB does with COPY ... (FORCE_QUOTE *), or as lines of JSON"
    raise UsageError(f"cannot import {file!r:.60}: {problem}", hint=hint)


def _record(line: bytes, split: Callable[[str, int], list[str]], header: list[str]) -> dict[str, str | int]:
    """Return the record of a line of TSV or CSV, its max_n as a number if it is one; raises ValueError."""
    try:
        row = split(line.decode().removesuffix("\n"), len(header))
    except UnicodeDecodeError:
        raise ValueError("the line is not UTF-8") from None
    record: dict[str, str | int] = dict(zip(header, row, strict=True))
    numbers = {name: str(record[name]) for name in ("max_n", "highest_salt") if name in record}
    return record | {name: int(n) for name, n in numbers.items() if re.fullmatch("[0-9]{1,9}", n)}


def _quoted_csv(text: str) -> list[str]:
    """Return the values of a line of CSV that has each of them in quotes, as Athena's have; [] for another line.

    Athena and DuckDB leave out the quotes of a NULL, which is an empty value here.
    """
    text = text.removesuffix("\r")
    return next(csv.reader([text], strict=True), []) if _QUOTED_CSV.fullmatch(text) else []


def _csv_row(text: str, width: int) -> list[str]:
    if len(row := _quoted_csv(text)) != width:
        raise ValueError(f"the line is not CSV with {width} values, each in quotes")
    return row


def open_lines(file: str, hint: str = HOW_TO_EXPORT) -> BinaryIO:
    """Open a file to read its bytes; ``-`` is stdin. Raises UsageError, with the hint, if it cannot be read."""
    try:
        # The file descriptor, since sys.stdin decodes.
        return open(0 if file == "-" else file, "rb", closefd=file != "-")
    except (OSError, ValueError) as exc:  # a NUL is a ValueError
        problem = getattr(exc, "strerror", None) or exc
        raise UsageError(f"cannot read {file!r:.60}: {problem}", hint=hint) from exc
