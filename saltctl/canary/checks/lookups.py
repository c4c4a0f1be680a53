"""Lookups of all reserved conversations: what every other check relies on."""

from __future__ import annotations

from saltctl.canary.conversations import RESERVED
from saltctl.canary.round import Round


def lookup(on: Round) -> str:
    """Look up every reserved conversation by both clients: N has to cover each message that the table has.

    A conversation of which it does not is not raised in this round, which would hide what readers miss.
    """
    for conversation in RESERVED:
        rows = on.truths[on.use(conversation)].rows
        for client in on.clients:
            n = client.lookups.lookup(conversation).max_n
            missed = [(name, row.partition_key) for name, row in rows.items() if row.needed_n > n]
            if missed:
                name, partition = missed[0]
                what = f"{len(missed)} of its {len(rows)} messages, such as {name} in {partition}"
                on.missed[conversation] = f"readers of {conversation} by {client.name} miss {what}: max_n is {n}"
    return f"N of {len(RESERVED)} conversations, {on.sources()}, covers their messages"
