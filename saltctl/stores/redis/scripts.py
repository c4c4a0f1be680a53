"""The Lua scripts, as they are in their files, and the SHA-1 by which Redis knows them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources


@cache
def script(name: str, store: str = "redis") -> str:
    """Return the text of a Lua script of one of the stores, exactly as its file has it."""
    return resources.files(f"saltctl.stores.{store}").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


@cache
def script_sha(name: str) -> str:
    """Return the SHA-1 of a script, by which Redis knows it. That of ``lookup`` is part of the protocol."""
    return hashlib.sha1(script(name).encode(), usedforsecurity=False).hexdigest()
