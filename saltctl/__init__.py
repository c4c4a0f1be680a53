"""saltctl: the registry of salted conversations, for application servers and for the people who operate it.

Application servers import from here; names are loaded when they are first used, so that importing the
package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltctl.errors import SaltctlError as SaltctlError
    from saltctl.find import FindOptions as FindOptions
    from saltctl.find import Found as Found
    from saltctl.history import History as History
    from saltctl.history import PutResult as PutResult
    from saltctl.meter import WriteMeter as WriteMeter
    from saltctl.pages import Message as Message
    from saltctl.pages import Page as Page
    from saltctl.pages import ReadOptions as ReadOptions
    from saltctl.registry import Lookup as Lookup
    from saltctl.registry import RaiseResult as RaiseResult
    from saltctl.registry import Registry as Registry
    from saltctl.salting import partition_key as partition_key
    from saltctl.salting import read_set as read_set
    from saltctl.salting import salt_of as salt_of
    from saltctl.settings import Settings as Settings
    from saltctl.settings import load_settings as load_settings
    from saltctl.stores.contracts import Filter as Filter

__version__ = "0.1.0"

_HOMES = {
    "Filter": "saltctl.stores.contracts",
    "FindOptions": "saltctl.find",
    "Found": "saltctl.find",
    "History": "saltctl.history",
    "Lookup": "saltctl.registry",
    "Message": "saltctl.pages",
    "Page": "saltctl.pages",
    "PutResult": "saltctl.history",
    "RaiseResult": "saltctl.registry",
    "ReadOptions": "saltctl.pages",
    "Registry": "saltctl.registry",
    "SaltctlError": "saltctl.errors",
    "Settings": "saltctl.settings",
    "WriteMeter": "saltctl.meter",
    "load_settings": "saltctl.settings",
    "partition_key": "saltctl.salting",
    "read_set": "saltctl.salting",
    "salt_of": "saltctl.salting",
}
__all__ = [
    "Filter",
    "FindOptions",
    "Found",
    "History",
    "Lookup",
    "Message",
    "Page",
    "PutResult",
    "RaiseResult",
    "ReadOptions",
    "Registry",
    "SaltctlError",
    "Settings",
    "WriteMeter",
    "__version__",
    "load_settings",
    "partition_key",
    "read_set",
    "salt_of",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
