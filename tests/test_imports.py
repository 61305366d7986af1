"""`import mlsm` imports no array library and is quick; a library is imported for the first call with its arrays.

In separate processes, because this one has imported everything.
"""

import statistics

import pytest

from ._support import python

ARRAY_LIBRARIES = (
    "array_api_compat",
    "array_api_strict",
    "cupy",
    "dask",
    "distributed",
    "jax",
    "jaxlib",
    "ml_dtypes",
    "numba",
    "numpy",
    "torch",
)


def test_import_imports_no_array_library() -> None:
    loaded = python("import sys, mlsm; print(*sorted({name.partition('.')[0] for name in sys.modules}))").split()
    assert not set(loaded) & set(ARRAY_LIBRARIES)
    assert "mlsm" in loaded


def test_an_import_of_numpy_would_be_found() -> None:
    assert "numpy" in python("import sys, numpy; print(*sys.modules)").split()


def test_import_imports_no_kernel() -> None:
    loaded = python("import sys, mlsm; print(*[name for name in sys.modules if name.startswith('mlsm')])").split()
    assert not [
        name
        for name in loaded
        if name.startswith(("mlsm.kernels.", "mlsm.autograd", "mlsm.nn", "mlsm.libraries."))
        and name != "mlsm.libraries.base"
    ]


def test_submodules_are_found_as_attributes() -> None:
    """After `import mlsm` alone, on first use, and without importing a framework before its name is used."""
    pytest.importorskip("torch", reason="the twin is an nn.Module")
    code = """
import sys, mlsm
assert "nn" in dir(mlsm) and "grad" in dir(mlsm) and "mlsm.nn" not in sys.modules
assert "torch" in dir(mlsm.nn) and "torch" not in sys.modules and "mlsm.nn.torch" not in sys.modules
twin = mlsm.nn.torch.MultiLabelSoftMarginLoss(reduction="sum")
import pickle
print(pickle.loads(pickle.dumps(twin)))
for module in (mlsm, mlsm.nn):
    try:
        module.nonesuch
    except AttributeError as error:
        print(error)
"""
    expected = (
        "MultiLabelSoftMarginLoss(reduction='sum')\n"
        "module 'mlsm' has no attribute 'nonesuch'\nmodule 'mlsm.nn' has no attribute 'nonesuch'"
    )
    assert python(code) == expected


@pytest.mark.parametrize("spelled", ["mlsm.nn.torch", "__import__('mlsm.nn.torch')", "from mlsm.nn import torch"])
def test_the_error_for_an_absent_framework_names_its_extra(spelled: str) -> None:
    code = f"""
import sys, mlsm
sys.modules["torch"] = None  # as if it were not installed
try:
    {spelled}
except ImportError as error:
    print(error)
"""
    assert "pip install 'mlsm[torch]'" in python(code)


def test_import_takes_less_than_50_ms() -> None:
    # Processor time, which does not depend on other processes.
    code = "import time; start = time.process_time(); import mlsm; print(time.process_time() - start)"
    python(code)  # bytecode is written on the first import
    times = [float(python(code)) for _ in range(7)]
    assert min(times) < 0.05, f"median {statistics.median(times)}"


def test_refusing_an_object_that_is_not_an_array_imports_nothing() -> None:
    code = """
import sys, mlsm
for bad in ([0.0], 0.0, None, "x"):
    try:
        mlsm.multilabel_soft_margin_loss(bad, bad)
    except TypeError as error:
        assert "`input`" in str(error)
    else:
        raise AssertionError(bad)
print(*sorted({name.partition('.')[0] for name in sys.modules}))
"""
    assert not set(python(code).split()) & (set(ARRAY_LIBRARIES) - {"array_api_compat"})


def test_options_alone_import_nothing() -> None:
    code = """
import sys, mlsm
print(mlsm.MultiLabelSoftMarginLoss([1.0, 2.0], pos_weight=2, label_smoothing=0.5))
print(*sorted({name.partition('.')[0] for name in sys.modules}))
"""
    assert not set(python(code).splitlines()[1].split()) & set(ARRAY_LIBRARIES)


@pytest.mark.parametrize(
    ("library", "make", "allowed"),
    [
        ("numpy", "import numpy as xp", {"numpy", "array_api_compat", "numba", "llvmlite"}),
        ("array_api_strict", "import array_api_strict as xp", {"numpy", "array_api_strict", "array_api_compat"}),
        ("dask", "import dask.array as xp", {"numpy", "dask", "array_api_compat", "numba"}),
    ],
)
def test_a_call_imports_only_the_library_of_its_arrays(library: str, make: str, allowed: set[str]) -> None:
    pytest.importorskip(library, reason="the call has its arrays")
    code = f"""
import sys
{make}
before = {{name.partition('.')[0] for name in sys.modules}}
import mlsm
x = xp.zeros((2, 3))
mlsm.value_and_grad(x, x)
after = {{name.partition('.')[0] for name in sys.modules}}
print(*sorted(after - before))
"""
    assert not set(python(code).split()) & (set(ARRAY_LIBRARIES) - allowed)


def test_the_module_for_a_library_is_imported_by_the_first_call_with_its_arrays() -> None:
    """An imported PyTorch is not enough; and the autograd node is imported for tensors that require a gradient."""
    pytest.importorskip("torch", reason="the calls have tensors")
    code = """
import sys, numpy, torch, mlsm
x = numpy.zeros((2, 3))
for a in (x, torch.from_numpy(x), torch.from_numpy(x).requires_grad_()):
    mlsm.multilabel_soft_margin_loss(a, a)
    found = (n for n in sys.modules if n.startswith(("mlsm.libraries.", "mlsm.autograd.")))
    print(*sorted(set(found) - {"mlsm.libraries.base"}))
"""
    node, numpy, torch = "mlsm.autograd.torch", "mlsm.libraries.numpy", "mlsm.libraries.torch"
    assert python(code).split("\n") == [numpy, f"{numpy} {torch}", f"{node} {numpy} {torch}"]


def test_every_module_imports_alone() -> None:
    """Independent of the order of other imports."""
    for module in ("_core", "_check", "_dispatch", "_reduce", "_policy", "_module", "libraries", "libraries.numpy"):
        assert python(f"import mlsm.{module}; print('fine')") == "fine"


def test_no_warning_on_import() -> None:
    assert python("import mlsm") == ""
