"""A redacted document has no conversation id, and what is no id stays."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from saltctl.incident.redaction import Redactor

HOSTILE = "con'v\x1b\N{RIGHT-TO-LEFT OVERRIDE} 1"


def test_ids_are_replaced_wherever_they_stand() -> None:
    """In keys that hold ids, in errors that quote them, and in commands that name them."""
    document = {
        "events": [{"conversation_id": "conv_1", "detail": "conv_1 to 4 by me"}],
        "error": f"the item of {'conv_2'!r} is damaged; and of {HOSTILE!r}",
        "fix": "saltctl registry get conv_2 -- conv_1",
        "key": {"partition_key": "conv_1#3"},
    }
    redacted = Redactor().redact(document)
    text = json.dumps(redacted)
    assert "conv" not in text.replace("conversation_id", "")
    assert "con'v" not in text
    hashed = redacted["events"][0]["conversation_id"]
    assert redacted["events"][0]["detail"] == f"{hashed} to 4 by me"
    assert redacted["fix"].endswith(f"-- {hashed}")


def test_what_is_no_id_stays() -> None:
    """Names, numbers, times, apostrophes, and words that an id is a part of."""
    document = {
        "conversation_id": "4",
        "detail": "406 of 1,400 in table 'messages': Redis' fence, the server's clock",
        "at": "2026-01-04T04:04:04.000Z",
        "n": 4,
    }
    redacted = Redactor(["messages"]).redact(document)
    assert redacted == document | {"conversation_id": redacted["conversation_id"]}


def test_an_id_that_is_a_name_is_replaced() -> None:
    """Here it is a table, too, which a text quotes."""
    redacted = Redactor(["messages"]).redact([{"conversation_id": "messages"}, "messages to 4"])
    assert "messages" not in str(redacted)


def test_a_hash_cannot_be_compared_with_that_of_another_bundle() -> None:
    """The key is random: whoever tries all ids finds none."""
    one, other = Redactor(), Redactor()
    assert one.hash("conv_1") == one.hash("conv_1") != one.hash("conv_2")
    assert one.hash("conv_1") != other.hash("conv_1")


@given(st.text(st.characters(codec="utf-8")))
def test_no_id_survives_where_it_is_quoted(rest: str) -> None:
    """Whatever it is made of, also if no key names it."""
    redacted = Redactor().redact({"error": f"the item of {'conv_' + rest!r} is damaged"})
    assert "conv_" not in redacted["error"]
