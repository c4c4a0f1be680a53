"""saltctl: the registry of salted conversations, for application servers and for the people who operate it.

Application servers import from here; names are loaded when they are first used, so that importing the
package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # nothing is imported here: Ctrl-C is not handled yet
if TYPE_CHECKING:
    from typing import Any

    from saltctl.detection.write_meter import WriteMeter
    from saltctl.errors import SaltctlError
    from saltctl.history.history import History
    from saltctl.history.models import FindOptions, Found, Message, Page, PutResult, ReadOptions
    from saltctl.registry.lookups import Lookup
    from saltctl.registry.registry import RaiseResult, Registry
    from saltctl.salting import partition_key, read_set, salt_of
    from saltctl.settings import Settings, load_settings
    from saltctl.stores.contracts.messages import Filter

__version__ = "0.1.0"

_NAMES = {
    "saltctl.detection.write_meter": ("WriteMeter",),
    "saltctl.errors": ("SaltctlError",),
    "saltctl.history.history": ("History",),
    "saltctl.history.models": ("FindOptions", "Found", "Message", "Page", "PutResult", "ReadOptions"),
    "saltctl.registry.lookups": ("Lookup",),
    "saltctl.registry.registry": ("RaiseResult", "Registry"),
    "saltctl.salting": ("partition_key", "read_set", "salt_of"),
    "saltctl.settings": ("Settings", "load_settings"),
    "saltctl.stores.contracts.messages": ("Filter",),
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

if not TYPE_CHECKING:  # a type checker would take any name for a public one

    def __getattr__(name: str) -> Any:
        """Load a public name from its module."""
        from importlib import import_module

        from saltctl.forks import importing

        for module, names in _NAMES.items():
            if name in names:
                with importing:  # another thread may fork
                    globals()[name] = getattr(import_module(module), name)  # the next use waits for no lock
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
