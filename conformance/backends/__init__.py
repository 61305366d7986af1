"""The array libraries that the suite knows. `base.py` has what they share and finds a backend by name; every other
file makes and reads one library's arrays.

Each of those files may import its library at the top, because it is imported only when its backend is needed.
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
