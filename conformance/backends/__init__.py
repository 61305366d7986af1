"""The array libraries that the suite knows: `base.py` is what they share and how one is found by name; every other
file makes and reads one library's arrays.

Each of those may import its library at its top: it is opened only when a backend of it is asked for.
"""

from .base import (
    ALIASES,
    CAPABILITIES,
    NAMES,
    Backend,
    Bulk,
    NotInstalled,
    UnknownBackend,
    Unsupported,
    find,
    installed,
    installed_versions,
    missing,
    names,
    register_backend,
    several_host_devices,
    unregister_backend,
)

__all__ = [
    "ALIASES",
    "CAPABILITIES",
    "NAMES",
    "Backend",
    "Bulk",
    "NotInstalled",
    "UnknownBackend",
    "Unsupported",
    "find",
    "installed",
    "installed_versions",
    "missing",
    "names",
    "register_backend",
    "several_host_devices",
    "unregister_backend",
]
