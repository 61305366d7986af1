"""CuPy: as NumPy, but no value is read, since a device would be waited for."""

from .numpy import Writable

MANY = Writable()
