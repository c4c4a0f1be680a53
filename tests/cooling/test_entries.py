"""Entries of cooled conversations: their strings, and their merge in Python and in Redis."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.local.servers import LocalRedis
from saltctl.stores.contracts.entries import (
    CooledEntry,
    Entry,
    lacks,
    merge,
    parse_cooled,
    parse_entry,
    recent_n_of,
    without_boundary,
)
from saltctl.stores.contracts.messages import SortKey
from saltctl.stores.redis.registry import RedisRegistry
from tests.support.redis_servers import plain_client

N = st.sampled_from([1, 2, 4, 8, 16, 64])
BOUNDARIES: st.SearchStrategy[SortKey | None] = st.one_of(
    st.none(), st.sampled_from(["2026-11-27T08:00:00Z#m1!", "a b\n\x00ü", Decimal("1790000000000.5")])
)


@st.composite
def cooled(draw: st.DrawFn) -> CooledEntry:
    """Return an entry that saltctl can have written."""
    max_n, epoch = draw(N), draw(st.integers(1, 4))
    era = draw(st.integers(0, epoch))
    write_n = draw(N.filter(lambda n: n <= max_n))
    if not era:
        return CooledEntry(max_n, write_n, epoch)
    return CooledEntry(max_n, write_n, epoch, era, draw(N.filter(lambda n: n <= max_n)), draw(BOUNDARIES))


ENTRIES: st.SearchStrategy[Entry] = st.one_of(N, cooled())


@given(ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    """Boundaries with spaces, line breaks and exact numbers, too."""
    assert parse_entry(str(entry)) == entry


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "064",
        "1e3",
        "64 1",
        "64 1 1 0 0",
        "64 1 0 0 0 ",
        "64 128 1 0 0 ",
        "64 1 1 2 1 Sx",
        "64 1 1 1 0 Sx",
        "64 1 1 1 65 Sx",
        "64 1 1 0 0 Sx",
        "64 1 1 1 1 S",
        "64 1 1 1 1 x",
        "64 1 1 1 1 Nten",
        "64 1 1 1 1 NNaN",
        "64 1 1 1 1 N1e3",
        "064 1 1 1 1 Sx",
        "٦٤ 1 1 1 1 Sx",
        "64 1 1 1 1 Sx".replace("1 1", "-1 1", 1),
    ],
)
def test_other_strings_are_no_entries(text: str) -> None:
    """What was not understood is refused, never turned into a value."""
    assert parse_cooled(text) is None
    assert parse_entry(text) is None


@given(ENTRIES, ENTRIES, ENTRIES)
def test_a_merge_is_the_same_in_any_order_and_repeated(a: Entry, b: Entry, c: Entry) -> None:
    """Redelivery, double runs and late merges are harmless; nothing that was merged is lacked."""
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert not lacks(merge(a, b), a)
    assert max(recent_n_of(merge(a, b)), 1) <= max(n if isinstance(n, int) else n.max_n for n in (a, b))


def test_the_newer_era_narrows_readers_and_a_raise_within_it_widens_them() -> None:
    """The rules of the merge, by example."""
    wide, sealed = CooledEntry(64, 1, 1), CooledEntry(64, 1, 1, 1, 1, "m")
    raised = CooledEntry(64, 8, 1, 1, 8, "m")
    assert merge(64, sealed) == merge(wide, sealed) == sealed
    assert merge(raised, sealed) == raised
    assert merge(raised, CooledEntry(64, 2, 2, 2, 2, "n")) == CooledEntry(64, 2, 2, 2, 2, "n")
    assert merge(sealed, 128) == sealed._replace(max_n=128)
    assert recent_n_of(merge(sealed, sealed._replace(boundary="other"))) == 64
    assert recent_n_of(merge(sealed, without_boundary(raised))) == 64


@pytest.mark.slow
def test_redis_merges_as_python_does(store: RedisRegistry, redis_server: LocalRedis) -> None:
    """The merges of a raise and of a rebuild, over pairs of all kinds; what no lookup accepts is overwritten."""
    kinds: list[Entry] = [1, 8, 64, CooledEntry(64, 1, 1), CooledEntry(64, 8, 1), CooledEntry(64, 2, 2)]
    kinds += [CooledEntry(64, 1, 1, 1, 1, "m x"), CooledEntry(64, 8, 1, 1, 8, "m x"), CooledEntry(64, 1, 1, 1, 1, "n")]
    kinds += [CooledEntry(64, 2, 2, 2, 2, Decimal(1790000000000)), CooledEntry(64, 1, 3, 3, 64)]
    cases = [(str(held), given_, merge(held, given_)) for held, given_ in product(kinds, repeat=2)]
    cases += [(damaged, given_, given_) for damaged in ("1e3", "64 1", "") for given_ in kinds]
    pairs = {f"conv{number}": case for number, case in enumerate(cases)}
    merged = {name: after for name, (_, _, after) in pairs.items()}
    with closing(plain_client(redis_server)) as admin:
        for name, (held, given_, _) in pairs.items():
            admin.hset(store.key_of(name), name, held)
            store.merge(name, given_)
        assert store.read_unverified(list(pairs)) == merged
        for name, (held, _, _) in pairs.items():
            admin.hset(store.key_of(name), name, held)
    (session,) = store.sessions()
    with closing(session):
        session.begin_merge([(name, given_) for name, (_, given_, _) in pairs.items()])
        changed = session.end_merge()
    assert store.read_unverified(list(pairs)) == merged
    assert changed == sum(held != str(after) for held, _, after in pairs.values())
