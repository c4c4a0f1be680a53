"""What was found in the data files of an export: a DuckDB database, which is the checkpoint, too.

What was found in a file is committed with the note that the file is done. A process that dies at any point leaves
a database that has some of the files completely, and nothing of the others.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltctl.errors import CheckpointRefusedError, ConfigurationError, LeaseHeldError

MEMORY = "256MB"
"""DuckDB's limit. What does not fit is written to a directory beside the database."""
MAX_OBJECT_BYTES = 1 << 22
_LINK, _SPILL = "database", "spill"
"""Names in the private directory: the link to the database, beside which DuckDB writes its log, and temporary files."""
_ROWS_PER_READ = 1000
_LONGEST_MESSAGE = 300
_EXTRA_HINT = "python3 -m pip install 'saltctl[export]'"
_TABLES = """
CREATE TABLE saltctl_export (scope VARCHAR);
CREATE TABLE files (name VARCHAR, items BIGINT, foreign_rows BIGINT, foreign_key VARCHAR);
CREATE TABLE found
  (file VARCHAR, conversation_id VARCHAR, highest VARCHAR, total BIGINT, misplaced BIGINT, without_id BIGINT,
  proofs VARCHAR);
"""
_INSERT = """
INSERT INTO found SELECT ?, row->>0, row->>1, CAST(row->>2 AS BIGINT), CAST(row->>3 AS BIGINT), CAST(row->>4 AS BIGINT),
  row->>5
FROM (SELECT UNNEST(from_json(CAST(? AS JSON), '["JSON"]')) AS row)
"""

Row = tuple[str | None, str | None, str | None, str | None, str | None]
"""The partition key of an item, its sort key and an attribute, the latter two as string and as number."""


class UnreadableFileError(Exception):
    """DuckDB cannot read a data file."""


@dataclass(frozen=True, slots=True)
class FoundRow:
    """What one file shows of one conversation.

    Args:
        highest: the highest salt, in decimal digits.
        total: its rows on salts, of which ``misplaced`` are not on the salt of their message id, and others have none.
        proofs: salt and CRC-32 of the message id of the rows that decide; None without an id.
    """

    conversation_id: str
    highest: str
    total: int
    misplaced: int
    without_id: int
    proofs: Sequence[tuple[int, int | None]]


@dataclass(frozen=True, slots=True)
class DoneFile:
    """A file that was read: its items, and those with a ``#`` that no salt follows, with one such key."""

    name: str
    items: int
    foreign_rows: int
    foreign_key: str | None


def require_duckdb() -> None:
    """Raise ConfigurationError if the extra is not installed."""
    try:
        import duckdb  # noqa: F401
    except ImportError:
        raise ConfigurationError("to read an export needs the extra 'export'", hint=_EXTRA_HINT) from None


@contextmanager
def open_database(file: Path, scope: str, *, restart: bool = False) -> Iterator[ExportDatabase]:
    """Open the database, or create it; it is locked, and its temporary files are removed at the end.

    Args:
        file: the database. Beside it are ``FILE.lock``, which stays, and a private directory: DuckDB creates its log
            with the mode of the umask, and that has ids, too.
        scope: what the database is of. One of another scope is refused.
        restart: forget what it has.

    Raises:
        LeaseHeldError: another process uses it.
        CheckpointRefusedError: it is no such database, or one of another scope.
        ConfigurationError: it cannot be created.
    """
    require_duckdb()
    if file.is_symlink():
        file = Path(os.path.realpath(file))  # a link to it has to be on the same disk
    _check_kind(file)
    with _locked(file):
        private = file.with_name(f"{file.name}.saltctl-spill")
        try:
            database = ExportDatabase(_connect(file, scope, private), private / _SPILL, file)
            try:
                database.claim(scope, restart=restart)
                yield database
            finally:
                database.close()
        finally:
            _clean(private)


def _clean(private: Path) -> None:
    """Remove what a run leaves, but not the log that it could not write to the database, as on a full disk."""
    if _is_private(private):  # and no link to another directory
        shutil.rmtree(private / _SPILL, ignore_errors=True)
        if not list(private.glob(f"{_LINK}.*")):
            shutil.rmtree(private, ignore_errors=True)


def _check_kind(file: Path) -> None:
    """Refuse a file of another kind before anything is created beside it."""
    try:
        with file.open("rb") as stream:
            begin = stream.read(12)
    except OSError:  # most likely it does not exist; otherwise DuckDB says why
        return
    if begin and begin[8:] != b"DUCK":
        raise CheckpointRefusedError(
            f"cannot use the checkpoint {str(file)!r}: it is another file", hint="name a file that does not exist yet"
        )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a database. Its file stays: a lock on a removed file would exclude nobody."""
    path = file.with_name(f"{file.name}.lock")
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot create {str(path)!r}: {exc.strerror}", hint="give a file in a writable directory"
        ) from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = f"another process uses the checkpoint {str(file)!r}"
            raise LeaseHeldError(problem, hint="wait until it ends") from None
        yield
    finally:
        os.close(lock)


def _connect(file: Path, scope: str, private: Path) -> Any:
    import duckdb

    config: dict[str, Any] = {
        "memory_limit": MEMORY,
        "threads": 2,
        "temp_directory": str(private / _SPILL),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,  # nothing is downloaded
        "autoload_known_extensions": False,
    }
    try:
        _prepare(file, scope, private)
        return duckdb.connect(str(private / _LINK), config=config)
    except duckdb.Error as exc:
        raise _not_ours(file, str(exc)) from exc
    except OSError as exc:
        raise ConfigurationError(
            f"cannot create the checkpoint {str(file)!r}: {exc.strerror or exc}, {str(exc.filename)!r}",
            hint="give a file in a writable directory",
        ) from exc


def _prepare(file: Path, scope: str, private: Path) -> None:
    """Create the private directory, with a link to the database, and the database if there is none.

    DuckDB writes its log beside the link. The log of a process that was killed is kept if it is of this database: if
    that was removed or replaced, DuckDB would apply it to the new one.
    """
    link, exists = private / _LINK, file.exists() and file.stat().st_size
    if not (exists and _is_private(private) and link.exists() and link.samefile(file)):
        shutil.rmtree(private, ignore_errors=True)
        private.mkdir(mode=0o700)  # and nobody else's
        if not exists:
            _create(file, scope, private)
        os.link(file, link)
    shutil.rmtree(private / _SPILL, ignore_errors=True)
    (private / _SPILL).mkdir()


def _is_private(directory: Path) -> bool:
    with suppress(FileNotFoundError):
        found = directory.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return False


def _create(file: Path, scope: str, private: Path) -> None:
    """Create the database in the private directory first, so that it is complete as soon as it has its name."""
    import duckdb

    new = private / "new"
    with duckdb.connect(str(new)) as connection:
        connection.execute(_TABLES)
        connection.execute("INSERT INTO saltctl_export VALUES (?)", [scope])
    new.chmod(0o600)  # it has ids of conversations
    new.replace(file)


def _not_ours(file: Path, problem: str) -> CheckpointRefusedError:
    return CheckpointRefusedError(
        f"cannot use the checkpoint {str(file)!r}: {' '.join(problem.split())[:_LONGEST_MESSAGE]}",
        hint="name another file, or remove this one if it is a damaged checkpoint",
    )


class ExportDatabase:
    """The database. One thread at a time may use it, except :meth:`interrupt`.

    ``directory`` is for temporary files, and is removed with what is in it. ``file`` names the database in errors.
    """

    def __init__(self, connection: Any, directory: Path, file: Path) -> None:
        self.directory, self._file = directory, file
        self._connection, self._reader = connection, connection.cursor()

    def claim(self, scope: str, *, restart: bool) -> None:
        """Check that the database is of this scope; with ``restart`` make it so. Raises CheckpointRefusedError."""
        import duckdb

        try:
            kept = self._connection.execute("SELECT scope FROM saltctl_export").fetchone()
        except duckdb.Error as exc:
            raise _not_ours(self._file, str(exc)) from exc
        if restart:
            self._connection.execute("BEGIN; DELETE FROM found; DELETE FROM files; DELETE FROM saltctl_export;")
            self._connection.execute("INSERT INTO saltctl_export VALUES (?)", [scope])
            self._connection.execute("COMMIT")
        elif kept != (scope,):
            raise CheckpointRefusedError(
                f"the checkpoint {str(self._file)!r} is of another export, or of other settings",
                hint="name another file, or add --restart, which forgets what it has",
            )

    def close(self) -> None:
        """Close the database; DuckDB then writes its log to it."""
        self._reader.close()
        self._connection.close()

    def interrupt(self) -> None:
        """End what other threads do with the database; they get an error."""
        self._reader.interrupt()
        self._connection.interrupt()

    def read_items(self, path: Path, pointers: Sequence[str]) -> Iterator[list[Row]]:
        """Yield the values of the items that lack a partition key or have one with a ``#``, in batches.

        Args:
            path: a data file, whose gzip and whose lines were verified.
            pointers: JSON pointers of the five values of a row.

        Raises:
            UnreadableFileError: a line is not JSON.
        """
        import duckdb

        columns = ", ".join(f"v[{number}]" for number in range(1, len(pointers) + 1))
        query = (
            f"SELECT {columns} FROM (SELECT json_extract_string(json, [{', '.join(map(_quoted, pointers))}]) AS v "  # noqa: S608
            f"FROM read_json_objects({_quoted(str(path))}, format = 'newline_delimited', compression = 'gzip', "
            f"maximum_object_size = {MAX_OBJECT_BYTES})) WHERE v[1] IS NULL OR contains(v[1], '#')"
        )
        try:
            yield from self._rows(query)
        except duckdb.InvalidInputException as exc:
            raise UnreadableFileError(" ".join(str(exc).split())[:_LONGEST_MESSAGE]) from exc

    def _rows(self, query: str) -> Iterator[list[Any]]:
        self._reader.execute(query)
        while rows := self._reader.fetchmany(_ROWS_PER_READ):
            yield rows

    @contextmanager
    def replacing(self, file: str) -> Iterator[None]:
        """Replace what is known of a file, all at once at the end of the block, or not at all."""
        with _duckdb_errors():
            self._connection.execute("BEGIN")
            try:
                self._connection.execute("DELETE FROM found WHERE file = ?", [file])
                self._connection.execute("DELETE FROM files WHERE name = ?", [file])
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(Exception):
                    self._connection.execute("ROLLBACK")
                raise

    def add(self, file: str, rows: Sequence[FoundRow]) -> None:
        """Add what was found in a file, inside of :meth:`replacing`."""
        encoded = [
            [r.conversation_id, r.highest, r.total, r.misplaced, r.without_id, json.dumps(r.proofs)] for r in rows
        ]
        self._connection.execute(_INSERT, [file, json.dumps(encoded)])

    def finish(self, file: DoneFile) -> None:
        """Note that a file is done, inside of :meth:`replacing`."""
        values = [file.name, file.items, file.foreign_rows, file.foreign_key]
        self._connection.execute("INSERT INTO files VALUES (?, ?, ?, ?)", values)

    def done(self) -> dict[str, DoneFile]:
        """Return the files that are done, by name."""
        rows = self._connection.execute("SELECT * FROM files").fetchall()
        return {row[0]: DoneFile(*row) for row in rows}

    def conversation_ids(self) -> Iterator[str]:
        """Yield the id of every conversation once."""
        with _duckdb_errors():
            for rows in self._rows("SELECT DISTINCT conversation_id FROM found"):
                yield from (row[0] for row in rows)

    def found(self) -> Iterator[FoundRow]:
        """Yield what was found in all files, sorted by conversation."""
        query = (
            "SELECT conversation_id, highest, total, misplaced, without_id, proofs FROM found "
            "ORDER BY conversation_id, file"
        )
        with _duckdb_errors():
            for rows in self._rows(query):
                for conversation_id, highest, total, misplaced, without_id, proofs in rows:
                    pairs = [(salt, crc) for salt, crc in json.loads(proofs)]
                    yield FoundRow(conversation_id, highest, total, misplaced, without_id, pairs)


@contextmanager
def _duckdb_errors() -> Iterator[None]:
    """Convert the errors of DuckDB that are no interruption, such as of a full disk."""
    import duckdb

    try:
        yield
    except duckdb.InterruptException:
        raise
    except duckdb.Error as exc:
        problem = " ".join(str(exc).split())[:_LONGEST_MESSAGE]
        raise ConfigurationError(f"DuckDB failed: {problem}", hint="make space on the disk, and run it again") from exc


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
