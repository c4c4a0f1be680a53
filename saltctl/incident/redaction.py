"""Documents without conversation ids, to hand to others: each id becomes a hash with a key that nobody keeps."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Iterator
from typing import Any

from saltctl.times import parse_iso

_ID_KEYS = ("conversation_id", "partition_key")
_QUOTED = re.compile(r"""(?<![\w'"])(?:'((?:[^'\\\n]|\\.)+)'|"((?:[^"\\\n]|\\.)+)")(?!\w)""")
"""A quoted part of a text, such as an id in an error, as Python quotes it. An apostrophe within a word begins none."""


class Redactor:
    """Replaces conversation ids in documents of plain values. One id has one hash in all of them.

    Ids are the values of the keys ``conversation_id`` and ``partition_key``, and whatever a text quotes, apart from
    ``names``. They are replaced wherever they stand in a text. More may be replaced than is an id, and no less.

    Args:
        names: what texts quote and is no id: tables, servers, groups.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(names)
        self._key = secrets.token_bytes(32)

    def hash(self, conversation_id: str) -> str:
        """Return the hash of an id. It cannot be found by trying ids: the key is random."""
        digest = hashlib.blake2b(conversation_id.encode("utf-8", "surrogatepass"), key=self._key, digest_size=6)
        return f"id-{digest.hexdigest()}"

    def redact(self, document: Any) -> Any:
        """Return a document with hashes in place of ids."""
        ids = {form for found in self._ids(document) for form in (found, repr(found)[1:-1])} - {""}
        longest_first = sorted(ids, key=lambda one: (-len(one), one))
        # An id ends where a word ends, so that the id 4 is not found in 406.
        words = "|".join(map(re.escape, longest_first))
        return self._replace(document, re.compile(rf"(?<!\w)(?:{words})(?!\w)") if ids else None)

    def _ids(self, value: Any, key: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from self._ids(inner, str(name))
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from self._ids(inner, key)
        elif isinstance(value, str) and key in _ID_KEYS:
            yield value
        elif isinstance(value, str):
            quoted = (match[1] or match[2] for match in _QUOTED.finditer(value))
            yield from (found for found in quoted if found not in self._names)

    def _replace(self, value: Any, pattern: re.Pattern[str] | None, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self._replace(inner, pattern, str(name)) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._replace(inner, pattern, key) for inner in value]
        if not isinstance(value, str):
            return value
        if key in _ID_KEYS:
            return self.hash(value)
        return value if pattern is None or _is_time(value) else pattern.sub(lambda match: self.hash(match[0]), value)


def _is_time(text: str) -> bool:
    try:
        parse_iso(text)
    except ValueError:
        return False
    return True
