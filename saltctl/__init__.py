"""saltctl: the registry of salted conversations, for application servers and for the people who operate it.

Application servers import from here; names are loaded when they are first used, so that importing the
package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltctl.detection.write_meter import WriteMeter as WriteMeter
    from saltctl.errors import SaltctlError as SaltctlError
    from saltctl.history.history import History as History
    from saltctl.history.models import FindOptions as FindOptions
    from saltctl.history.models import Found as Found
    from saltctl.history.models import Message as Message
    from saltctl.history.models import Page as Page
    from saltctl.history.models import PutResult as PutResult
    from saltctl.history.models import ReadOptions as ReadOptions
    from saltctl.registry.registry import Lookup as Lookup
    from saltctl.registry.registry import RaiseResult as RaiseResult
    from saltctl.registry.registry import Registry as Registry
    from saltctl.salting import partition_key as partition_key
    from saltctl.salting import read_set as read_set
    from saltctl.salting import salt_of as salt_of
    from saltctl.settings import Settings as Settings
    from saltctl.settings import load_settings as load_settings
    from saltctl.stores.contracts import Filter as Filter

__version__ = "0.1.0"

_HOMES = {
    "Filter": "saltctl.stores.contracts",
    "FindOptions": "saltctl.history.models",
    "Found": "saltctl.history.models",
    "History": "saltctl.history.history",
    "Lookup": "saltctl.registry.registry",
    "Message": "saltctl.history.models",
    "Page": "saltctl.history.models",
    "PutResult": "saltctl.history.models",
    "RaiseResult": "saltctl.registry.registry",
    "ReadOptions": "saltctl.history.models",
    "Registry": "saltctl.registry.registry",
    "SaltctlError": "saltctl.errors",
    "Settings": "saltctl.settings",
    "WriteMeter": "saltctl.detection.write_meter",
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
