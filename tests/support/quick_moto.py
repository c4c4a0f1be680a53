"""``python quick_moto.py``: the moto of the tests, which answers with items in a fifth of the processor time.

moto walks AWS's model for each value of each item that it returns, and looks for each possible type under many names:
0.2 ms an item, most of what a scan or a query costs. A string or a number of an item is sent as it is kept.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from saltctl.local.moto_server import main
from saltctl.local.servers import LocalMoto

WALK = "_serialize_type_structure"
"""The method of moto's serializers that walks a structure of AWS's model."""


class QuickMoto(LocalMoto):
    """moto's server with this patch, and those of the local environment."""

    _COMMAND = (sys.executable, "-P", __file__)


def unless_plain(serialize: Callable[..., None]) -> Callable[..., None]:
    """Wrap moto's serializer of structures so that strings and numbers of items are not walked. All else is."""

    @functools.wraps(serialize)
    def quick(self: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:
        """Take over the value of an attribute."""
        if shape.name == "AttributeValue" and key and type(value) is dict and len(value) == 1:
            ((kind, content),) = value.items()
            if kind in ("S", "N") and type(content) is str:
                serialized[key] = value
                return
        serialize(self, serialized, value, shape, key)

    return quick


def patch_moto() -> None:
    """Patch moto in this process."""
    from moto.core.serialize import BaseJSONSerializer

    setattr(BaseJSONSerializer, WALK, unless_plain(getattr(BaseJSONSerializer, WALK)))


if __name__ == "__main__":
    patch_moto()
    main()
