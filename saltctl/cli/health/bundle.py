"""The bundle of ``saltctl incident``: one JSON file with what others need to understand an incident."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from saltctl import __version__
from saltctl.cli.files import replace_file, require_replaceable
from saltctl.cli.formats.text import printable_json, without_passwords
from saltctl.cli.output import to_json
from saltctl.cli.session import Session
from saltctl.errors import ConfigurationError, RefusedError
from saltctl.masking import without_secrets
from saltctl.settings import config_path
from saltctl.times import iso_utc

_WHAT = "bundle"
_HINT = "give a new file in a directory of your own, such as incident.json"


def require_new(file: Path) -> None:
    """Refuse a file that exists, is special, or cannot be written.

    Raises:
        RefusedError: it exists.
        ConfigurationError: it is special, or in a directory that is not writable.
    """
    require_replaceable(file, _WHAT, _HINT)
    if file.exists() or file.is_symlink():
        raise RefusedError(f"cannot write the {_WHAT} {str(file)!r}: it exists", hint=_HINT)


def write_bundle(file: Path, session: Session, incident: dict[str, Any], *, with_ids: bool) -> None:
    """Write the incident with status, doctor and settings to a new file that only its owner can read.

    Raises:
        RefusedError, ConfigurationError: as :func:`require_new`; or the file cannot be written.
    """
    document = _document(session, incident, with_ids=with_ids)
    content = printable_json(to_json(document, indent=2)) + "\n"
    require_new(file)
    try:
        replace_file(file, content.encode(), _WHAT, mode=0o600)
    except OSError as exc:
        raise ConfigurationError(f"cannot write the {_WHAT} {str(file)!r}: {exc.strerror}", hint=_HINT) from exc


def _document(session: Session, incident: dict[str, Any], *, with_ids: bool) -> dict[str, Any]:
    from saltctl.health.doctor import run_checks
    from saltctl.health.facts import Facts
    from saltctl.health.fix_commands import FixCommands
    from saltctl.health.status import read_status
    from saltctl.incident.redaction import Redactor

    settings = session.settings
    commands, config = FixCommands(settings, session.root_options), config_path(os.environ, session.config)
    facts = Facts(settings, commands, config_file=config)
    status = read_status(facts)
    found = run_checks(facts.refreshed())
    findings = [
        {"name": one.check, "status": one.status, "detail": one.detail, "fix": one.fix or None} for one in found
    ]
    shown = settings.describe()
    read = _without_secrets({"incident": incident, "status": status, "doctor": findings})
    if not with_ids:
        names = {str(row["value"]) for row in shown} | {str(status["redis"])}
        read = Redactor(names).redact(read)
    return {
        "created_at": iso_utc(time.time()),
        "saltctl": __version__,
        "ids": "plain" if with_ids else "hashed",
        **read,
        "settings": shown,
    }


def _without_secrets(value: Any) -> Any:
    """Mask what errors of servers and drivers may quote."""
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value]
    return without_secrets(without_passwords(value)) if isinstance(value, str) else value
