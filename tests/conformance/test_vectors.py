"""The test vectors: saltctl's own code agrees with each, and CRC-32 and SHA-1 are those of other implementations.

Everything but CRC-32 and SHA-1 was written by hand from the rules of ``saltctl help client-protocol``.
"""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from typing import Any

import pytest

from saltctl.cli.guide.topics import topics
from saltctl.conformance.python_client import lookup_answer
from saltctl.conformance.vectors import vectors_text
from saltctl.errors import DamagedEntryError, InvalidConversationIdError, SaltctlError, WrongTypeError
from saltctl.registry.lookups import Lookup, lookup_of
from saltctl.salting import check_conversation_id, salt_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import parse_entry as parse_item
from saltctl.stores.aws.registry_item import RegistryItem
from saltctl.stores.contracts.entries import CooledEntry, write_n_of
from saltctl.stores.redis.buckets import Buckets, parse_entry
from saltctl.stores.redis.scripts import script, script_sha

VECTORS: dict[str, Any] = json.loads(vectors_text())
LISTS = ("salts", "redis_elements", "backup_items", "registry_items", "read_sets")


def crc32(text: str) -> int:
    """CRC-32 bit by bit, from its polynomial."""
    crc = 0xFFFFFFFF
    for byte in text.encode():
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def answer_of(entry: Any, write_n: int) -> dict[str, Any]:
    """The answer that saltctl gives for an entry, as the vectors have it."""
    answer = lookup_answer(lookup_of("conv", entry, "redis", write_n), None)
    return {name: answer[name] for name in ("max_n", "write_n", "recent_n", "boundary")}


def expected(vector: dict[str, Any]) -> dict[str, Any]:
    """The answer in a vector."""
    return {name: vector[name] for name in ("max_n", "write_n", "recent_n", "boundary")}


def test_every_list_is_explained_and_has_both_kinds() -> None:
    """``about`` has each list and their origin; the file is ASCII, so that no editor changes an id."""
    assert {*LISTS, "ids", "origin"} == VECTORS["about"].keys()
    assert vectors_text().isascii()
    for name in ("redis_elements", "backup_items", "registry_items"):
        refused = [vector.get("refused", False) for vector in VECTORS[name]]
        assert True in refused
        assert False in refused


def test_no_two_vectors_are_equal() -> None:
    """An editor that normalizes text would make equal what differs; two forms of one letter are there."""
    for vectors in (*(VECTORS[name] for name in LISTS), *VECTORS["ids"].values()):
        assert len({json.dumps(vector, sort_keys=True) for vector in vectors}) == len(vectors)
    assert {"\u00fc", "u\u0308"} <= {vector["id"] for vector in VECTORS["ids"]["accepted"]}


def test_ids_and_buckets() -> None:
    """The bucket is CRC-32 of UTF-8, and the reference value of CRC-32 is met."""
    assert crc32("123456789") == 0xCBF43926
    for vector in VECTORS["ids"]["accepted"]:
        name = vector["id"]
        assert check_conversation_id(name) == name
        assert vector["crc32"] == crc32(name)
        assert vector["bucket"] == crc32(name) % 16384
        assert vector["bucket_of_16"] == crc32(name) % 16
        assert Buckets.of(Settings()).key_of(name) == vector["key"]
        assert Buckets.of(Settings(buckets=16)).key_of(name) == f"salt:r:{vector['bucket_of_16']}"
    assert {len(v["id"].encode()) for v in VECTORS["ids"]["accepted"]} >= {1, 2000}
    for name in VECTORS["ids"]["refused"]:
        with pytest.raises(InvalidConversationIdError):
            check_conversation_id(name)


def test_salts() -> None:
    """The salt is CRC-32 of the message id modulo n, and none for n = 1."""
    for vector in VECTORS["salts"]:
        name, n = vector["message_id"], vector["n"]
        assert vector["salt"] == salt_of(name, n) == (None if n == 1 else crc32(name) % n)


@pytest.mark.parametrize("vector", VECTORS["redis_elements"], ids=lambda v: str(v["element"]))
def test_an_element_of_redis(vector: dict[str, Any]) -> None:
    """It is an answer, or is refused."""
    element = vector["element"]
    value = None if element is None else element.encode()
    if vector.get("refused"):
        with pytest.raises(WrongTypeError):
            parse_entry(value, "redis", "conv")
    else:
        entry = parse_entry(value, "redis", "conv") or 1
        assert answer_of(entry, write_n_of(entry)) == expected(vector)
        assert not isinstance(entry, CooledEntry) or str(entry) == element


@pytest.mark.parametrize("vector", VECTORS["backup_items"], ids=lambda v: json.dumps(v["item"])[:60])
def test_an_item_of_the_backup(vector: dict[str, Any]) -> None:
    """It is an answer, or is refused."""
    item = vector["item"]
    if vector.get("refused"):
        with pytest.raises(DamagedEntryError):
            parse_item("conv", item, "table")
    elif item is None:
        assert expected(vector) == answer_of(1, 1)
    else:
        entry = parse_item("conv", item, "table")
        assert answer_of(entry.entry, entry.write_n) == expected(vector)


class _Table:
    """A backup table whose identity may not be asked for."""

    where, region = "table", "us-east-1"
    settings = Settings(aws_region="us-east-1")

    def identity(self) -> str:
        """The identity that an item without claimed tables expects."""
        return ""


@pytest.mark.parametrize("vector", VECTORS["registry_items"], ids=lambda v: json.dumps(v["item"])[:60])
def test_an_item_of_the_registry(vector: dict[str, Any]) -> None:
    """It names the layout of lookups, or is refused."""
    registry = RegistryItem(_Table())  # type: ignore[arg-type]
    if vector.get("refused"):
        with pytest.raises(SaltctlError):
            registry.check(vector["item"])
    else:
        assert f"{Settings().layout}:{registry.check(vector['item']).registry_id}" == vector["layout"]


def _key(tagged: dict[str, str] | None) -> Any:
    return None if tagged is None else tagged["S"] if "S" in tagged else Decimal(tagged["N"])


def test_read_sets() -> None:
    """The base partition is in each, and the boundary decides how many salts are."""
    for vector in VECTORS["read_sets"]:
        found = Lookup(vector["conversation_id"], vector["max_n"], 1, "redis", vector["recent_n"])
        found = found._replace(boundary=_key(vector["boundary"]))
        assert found.read_set(_key(vector["since"])) == vector["read_set"], vector


def test_the_script() -> None:
    """Its SHA-1 is in the vectors and in the rules."""
    sha = hashlib.sha1(script("lookup").encode(), usedforsecurity=False).hexdigest()
    assert VECTORS["lookup_script_sha1"] == script_sha("lookup") == sha
    assert re.findall(r"\b[0-9a-f]{40}\b", topics()["client-protocol"]) == [sha]
