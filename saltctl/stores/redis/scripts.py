"""The Lua scripts of the package's files, and the SHA-1 by which Redis knows them."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources

from saltctl.forks import importing

_INCLUDE = re.compile(r"^-- include (\w+)\n", re.MULTILINE)


@cache
def script(name: str, store: str = "redis") -> str:
    """Return the text of a Lua script of one of the stores: its file, with functions that scripts share included."""
    with importing:  # importlib.resources imports the package, and its own readers
        text = resources.files(f"saltctl.stores.{store}").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda line: script(line[1], store), text)


@cache
def script_sha(name: str) -> str:
    """Return the SHA-1 of a script, by which Redis knows it. That of ``lookup`` is part of the protocol."""
    return hashlib.sha1(script(name).encode(), usedforsecurity=False).hexdigest()
