"""Is a multi-label soft margin loss right, and by how much is it wrong?

Installs as ``mlsm_conformance``. The judges (``reference``) and the calls that they judge (``cases``,
``strategies``) do not depend on the library that is judged; the suite applies them to a backend, to a kernel, or to
another loss. Importing this package imports the standard library only.
"""
