"""``python -m tests.registry.export.large_export DIRECTORY ITEMS``: discover from a generated export.

Prints the seconds and the peak of the resident memory in MiB of the discovery alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from functools import partial
from pathlib import Path

from saltctl.history.models import message_id_of
from saltctl.registry.discover import Discovery
from saltctl.registry.export.discovery import ExportDiscovery, scope_of
from saltctl.registry.export.manifest import read_manifest
from saltctl.settings import Settings
from saltctl.stores.export.database import open_database
from saltctl.stores.export.files import open_files, read_file
from tests.registry.export.conftest import KEYS, empty_backup
from tests.support.exports import file_record, summary_of, write_manifests

FILES = 20
BODY = "a message of about the length that people write to each other"


def generate(directory: Path, items: int) -> None:
    """Write an export in which each third message is on a salt, of one of 2,000 conversations."""
    (directory / "data").mkdir(parents=True)
    records = []
    for part in range(FILES):
        packer, packed = zlib.compressobj(1, wbits=31), []
        numbers = range(part, items, FILES)
        for start in range(0, len(numbers), 10_000):
            lines = "".join(_line(number) for number in numbers[start : start + 10_000])
            packed.append(packer.compress(lines.encode()))
        content = b"".join([*packed, packer.flush()])
        (directory / "data" / f"part{part}.json.gz").write_bytes(content)
        records.append(file_record(f"part{part}", content, len(numbers)))
    write_manifests(directory, summary_of(items), records)


def _line(number: int) -> str:
    message = f"m{number:09d}"
    key = f"cold{number % 1_000_003}"
    if number % 3 == 0:
        key = f"hot{number // 3 % 2000}#{zlib.crc32(message.encode()) % 16}"
    return (
        f'{{"Item":{{"conversation_id":{{"S":"{key}"}},"sort_key":{{"S":"2026-01-01T00:00:00Z#{message}"}},'
        f'"body":{{"S":"{BODY}"}},"sender":{{"S":"user{number % 977}"}}}}}}\n'
    )


def discover(directory: Path, checkpoint: Path) -> Discovery:
    """Discover from the export."""
    files = open_files(str(directory), Settings())
    manifest = read_manifest(lambda name, most: read_file(files, name, most), files.where)
    with open_database(checkpoint, scope_of(manifest, KEYS, None)) as database:
        job = ExportDiscovery(files, manifest, database, KEYS, partial(message_id_of, keys=KEYS, attribute=None))
        *_, found = job.run(empty_backup(), cap=256, any_salting=False)
    assert isinstance(found, Discovery)
    return found


def main(directory: Path, items: int) -> None:
    """Generate the export unless it is there, discover from it in this process, and print what that took."""
    if not directory.exists():
        generate(directory, items)
    started = time.monotonic()
    found = discover(directory, directory.parent / "checkpoint")
    report = {
        "items": found.items,
        "behind": len(found.behind),
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
