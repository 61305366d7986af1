"""The kernel table: registration, order, forcing by name, explanations, and a third party's kernel in real calls."""

import threading
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import Kernel, _check, _core, _dispatch
from mlsm._problem import State

from ._support import check, identical, needs_kernels

pytestmark = pytest.mark.usefixtures("table")

X, Y = np.asarray([[0.5, -1.0, 2.0]]), np.asarray([[1, 0, 1]])
loss = mlsm.multilabel_soft_margin_loss


def _kernel(name: str = "ours", **fields: Any) -> Kernel:
    """A kernel that serves every call with the functions of the reference."""
    made = {"libraries": ("numpy",), "accepts": lambda problem: None, "rows": _core.rows}
    return Kernel(name, **(made | fields))


def _doubled(o: Any) -> Any:
    """Wrong on purpose, so that the result shows which kernel served the call."""
    return 2 * _core.rows(o)


# ---------------------------------------------------------------- the record


def test_a_kernel_is_frozen_and_its_defaults_are_the_reference() -> None:
    kernel = _kernel()
    with pytest.raises(AttributeError, match="immutable"):
        kernel.name = "other"  # type: ignore[misc]  # must be refused
    x = mlsm.grad(X, Y, kernel="generic")
    mlsm.register_kernel(kernel)
    identical(mlsm.grad(X, Y, kernel="ours"), x)
    identical(mlsm.hessian_diag(X, Y, kernel="ours"), mlsm.hessian_diag(X, Y, kernel="generic"))
    value, gradient = mlsm.value_and_grad(X, Y, kernel="ours")
    identical(value, loss(X, Y, kernel="generic"))
    identical(gradient, x)


def test_records_refuse_unknown_fields_and_changes() -> None:
    """A misspelt field is an error, and no field can be changed after the checks."""
    for record in (_kernel(), mlsm.explain(X, Y)):
        with pytest.raises(AttributeError, match="immutable"):
            record.note = "changed"  # type: ignore[misc]  # must be refused
        with pytest.raises(AttributeError):
            object.__setattr__(record, "notes", "changed")


# ---------------------------------------------------------------- registration


def test_registering_and_unregistering() -> None:
    before = mlsm.explain(X, Y).chosen
    mlsm.register_kernel(_kernel())
    assert mlsm.explain(X, Y).chosen == "ours"
    mlsm.unregister_kernel("ours")
    assert mlsm.explain(X, Y).chosen == before
    with pytest.raises(ValueError, match="`kernel`"):
        loss(X, Y, kernel="ours")


def test_the_latest_registered_comes_first() -> None:
    mlsm.register_kernel(_kernel("first"))
    mlsm.register_kernel(_kernel("second"))
    explained = mlsm.explain(X, Y)
    assert explained.chosen == "second"
    assert dict(explained.reasons)["first"].startswith("it could serve this call")


def test_a_kernel_that_declines_is_skipped_with_its_reason() -> None:
    before = mlsm.explain(X, Y).chosen
    mlsm.register_kernel(_kernel(accepts=lambda problem: "it is closed on Mondays"))
    explained = mlsm.explain(X, Y)
    assert explained.chosen == before
    assert dict(explained.reasons)["ours"] == "it is closed on Mondays"


@pytest.mark.parametrize(
    ("kernel", "error", "words"),
    [
        pytest.param(object(), TypeError, "`kernel`.*object", id="no kernel"),
        pytest.param("numpy", TypeError, "`kernel`.*str", id="a name"),
        pytest.param(_kernel(name=""), TypeError, "`kernel.name`", id="empty name"),
        pytest.param(_kernel(name=3), TypeError, "`kernel.name`.*3", id="name is a number"),  # type: ignore[arg-type]  # refused
        pytest.param(_kernel(libraries="numpy"), TypeError, "`kernel.libraries`", id="libraries is a string"),
        pytest.param(_kernel(libraries=()), TypeError, "`kernel.libraries`", id="no library"),
        pytest.param(_kernel(libraries=(np,)), TypeError, "`kernel.libraries`", id="libraries are modules"),
        pytest.param(_kernel(accepts=None), TypeError, "`kernel.accepts`", id="accepts"),
        pytest.param(_kernel(rows=None), TypeError, "`kernel.rows`", id="rows"),
        pytest.param(_kernel(rows_vjp=None), TypeError, "`kernel.rows_vjp`", id="rows_vjp"),
        pytest.param(_kernel(curvature="no"), TypeError, "`kernel.curvature`", id="curvature"),
        pytest.param(_kernel(rows_and_vjp=3), TypeError, "`kernel.rows_and_vjp`", id="rows_and_vjp"),
        pytest.param(_kernel(note="slow"), TypeError, "`kernel.note`", id="note"),
        pytest.param(_kernel(name="generic"), ValueError, "`kernel.name`.*generic", id="the reference's name"),
    ],
)
def test_refused_registration_changes_nothing(kernel: Any, error: type[Exception], words: str) -> None:
    before = _dispatch.names(), mlsm.explain(X, Y)
    with pytest.raises(error, match=words):
        mlsm.register_kernel(kernel)
    assert (_dispatch.names(), mlsm.explain(X, Y)) == before


@needs_kernels
def test_names_of_mlsms_kernels_cannot_be_registered() -> None:
    with pytest.raises(ValueError, match=r"`kernel.name`.*numpy"):
        mlsm.register_kernel(_kernel("numpy"))


def test_a_name_cannot_be_registered_twice() -> None:
    mlsm.register_kernel(_kernel(rows=_doubled))
    with pytest.raises(ValueError, match=r"`kernel.name`.*ours"):
        mlsm.register_kernel(_kernel())
    check(loss(X, Y), 2 * loss(X, Y, kernel="generic"), 0, "the first is still there")


@pytest.mark.parametrize("name", ["nonesuch", "generic", "numpy", None])
def test_only_registered_kernels_can_be_unregistered(name: Any) -> None:
    with pytest.raises(ValueError, match="`name`"):
        mlsm.unregister_kernel(name)


def test_unregistering_removes_one_kernel_only() -> None:
    for name in "bdac":
        mlsm.register_kernel(_kernel(name))
    mlsm.unregister_kernel("".join(["", "b"]))
    assert _dispatch.names()[:3] == ("c", "a", "d")
    with pytest.raises(ValueError, match=r"\(c, a, d\); got 'b'"):
        mlsm.unregister_kernel("b")


def test_nothing_is_kept_of_a_library_that_no_kernel_serves() -> None:
    """A dtype in a kept problem would keep its whole library alive."""
    xp = pytest.importorskip("array_api_strict", reason="a library without a kernel")
    x = np.zeros((2, 3))
    mlsm.multilabel_soft_margin_loss(x, x)
    kept = _dispatch._latest
    mlsm.multilabel_soft_margin_loss(xp.asarray(x), xp.asarray(x))
    assert _dispatch._latest is kept


def test_an_unknown_name_is_refused_whatever_is_registered() -> None:
    with pytest.raises(ValueError, match=r"\(none\); got 'nonesuch'"):
        mlsm.unregister_kernel("nonesuch")
    for i in range(300):
        mlsm.register_kernel(_kernel(f"kernel {i}"))
    with pytest.raises(ValueError, match="'nonesuch'"):
        mlsm.unregister_kernel("nonesuch")


def test_registration_is_atomic() -> None:
    """Eight threads call while others register and unregister: each call sees a complete table."""
    stop = threading.Event()
    errors: list[BaseException] = []
    single = float(loss(X, Y, kernel="generic"))

    def churn(i: int) -> None:
        for _ in range(100):
            mlsm.register_kernel(_kernel(f"churn {i}", rows=_doubled))
            mlsm.unregister_kernel(f"churn {i}")

    def call() -> None:
        try:
            while not stop.is_set():
                value = float(loss(X, Y))
                assert abs(value / single - round(value / single)) < 1e-12, value
                mlsm.explain(X, Y)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    churners = [threading.Thread(target=churn, args=(i,)) for i in range(4)]
    for thread in (*callers, *churners):
        thread.start()
    for thread in churners:
        thread.join()
    stop.set()
    for thread in callers:
        thread.join()
    assert not errors, errors[0]
    assert not any(n.startswith("churn") for n in _dispatch.names())


# ---------------------------------------------------------------- forcing


def test_kernel_by_name() -> None:
    mlsm.register_kernel(_kernel(accepts=lambda problem: None, rows=_doubled))
    reference = loss(X, Y, kernel="generic")
    check(loss(X, Y, kernel="ours"), 2 * reference, 0)
    check(loss(X, Y), 2 * reference, 0)
    check(mlsm.MultiLabelSoftMarginLoss()(X, Y, kernel="ours"), 2 * reference, 0)


def test_an_unknown_name_lists_those_registered() -> None:
    mlsm.register_kernel(_kernel())
    with pytest.raises(ValueError, match=r"`kernel`.*ours.*generic.*nonesuch"):
        loss(X, Y, kernel="nonesuch")


def test_names_are_compared_by_value() -> None:
    mlsm.register_kernel(_kernel("ab"))
    assert mlsm.explain(X, Y, kernel="".join("ab")).chosen == "ab"
    assert mlsm.explain(X, Y, kernel="".join("generic")).chosen == "generic"
    for near in ("a", "b", "aa", "ac", "abc", "zz", "generi", "generics"):
        with pytest.raises(ValueError, match=f"'{near}'"):
            mlsm.explain(X, Y, kernel=near)


def test_the_flag_for_derivatives_is_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        _dispatch.select(_problem(), None, True)  # type: ignore[misc]  # refused: a positional True is unclear


def _problem(state: State = State.PLAIN) -> Any:
    return _check.problem(X, Y, None, None, None, "mean", 0.0, -1)[0]._replace(state=state)


@pytest.mark.parametrize("state", State)
def test_traced_and_transformed_calls_get_the_reference(state: State) -> None:
    """A trace records only the reference's operations; any kernel may serve a tracked call, by an autograd node."""
    mlsm.register_kernel(_kernel(rows=_doubled))
    problem = _problem(state)
    served = state is not State.TRACED
    assert _dispatch.select(problem).name == ("ours" if served else "generic")
    if served:
        assert _dispatch.select(problem, "ours").name == "ours"
    else:
        with pytest.raises(ValueError, match=r"'ours' cannot serve this call: .*compiler"):
            _dispatch.select(problem, "ours")
    assert _dispatch.select(problem, "generic").name == "generic"


def test_a_forced_kernel_that_cannot_serve_raises_with_the_reason() -> None:
    mlsm.register_kernel(_kernel(accepts=lambda problem: "it serves float16 only"))
    for call in (loss, mlsm.grad, mlsm.value_and_grad, mlsm.hessian_diag, mlsm.explain):
        with pytest.raises(ValueError, match=r"`kernel` 'ours'.*it serves float16 only"):
            call(X, Y, kernel="ours")


def test_a_forced_kernel_of_another_library_raises() -> None:
    mlsm.register_kernel(_kernel(libraries=("elsewhere",)))
    with pytest.raises(ValueError, match=r"'ours'.*elsewhere.*numpy"):
        loss(X, Y, kernel="ours")
    assert "elsewhere" in dict(mlsm.explain(X, Y).reasons)["ours"]


@needs_kernels
def test_mlsms_kernels_of_other_libraries_raise() -> None:
    from mlsm.kernels import present

    others = [name for name, libraries in present().items() if "numpy" not in libraries]
    if not others:
        pytest.skip("every kernel file serves NumPy")
    for name in others:
        with pytest.raises(ValueError, match=f"'{name}'.*numpy|'{name}'.*not installed"):
            loss(X, Y, kernel=name)


# ---------------------------------------------------------------- the arguments of a kernel


def _asked(*arguments: Any, **options: Any) -> Any:
    """The problem that a kernel gets for this call."""
    seen: list[Any] = []

    def accepts(problem: Any) -> str:
        seen.append(problem)
        return "only looking"

    mlsm.register_kernel(_kernel("looking", libraries=("numpy", "torch", "dask", "jax"), accepts=accepts))
    mlsm.explain(*arguments, **options)
    mlsm.unregister_kernel("looking")
    return seen[0]


def test_problem_is_metadata_with_the_class_axis_last() -> None:
    x = np.zeros((4, 2, 3), dtype=np.float32)
    weight = np.ones((4, 1, 1))
    problem = _asked(x, x > 0, weight, pos_weight=2.0, where=x < 1, axis=0, label_smoothing=0.25)
    assert problem.library == "numpy"
    assert problem.input.shape == (2, 3, 4)
    assert problem.input.dtype == "float32"
    assert problem.target.dtype == "bool"
    assert problem.weight.shape == (1, 1, 4)
    assert problem.weight.dtype == "float64"
    assert problem.pos_weight.shape == ()
    assert problem.where.shape == (2, 3, 4)
    assert problem.label_smoothing == 0.25
    assert problem.dtype == "float64"
    plain = _asked(x, x)
    assert (plain.weight, plain.pos_weight, plain.where) == (None, None, None)


def test_layout_of_arrays() -> None:
    x = np.zeros((4, 3))
    raw = np.zeros(x.nbytes + 1, dtype=np.uint8)[1:].view(np.float64).reshape(4, 3)
    for array, layout in (
        (x, "C"),
        (x[:, ::-1], "strided"),
        (np.asfortranarray(x), "strided"),
        (x.astype(x.dtype.newbyteorder("S")), "foreign"),
        (raw, "foreign"),
    ):
        assert _asked(array, x).input.layout == layout
    assert _asked(x, x, axis=0).input.layout == "strided"


def test_unknown_lengths_are_none() -> None:
    da = pytest.importorskip("dask.array", reason="it has unknown lengths")
    x = da.from_array(np.zeros((4, 3)), chunks=2)
    problem = _asked(x[x[:, 0] > -1], x[x[:, 0] > -1])
    assert problem.input.shape == (None, 3)
    assert problem.input.layout == "unknown"


def test_accepts_and_rows_are_called_once() -> None:
    calls: list[str] = []

    def rows(o: Any) -> Any:
        calls.append("rows")
        return _core.rows(o)

    mlsm.register_kernel(_kernel(accepts=lambda problem: calls.append("accepts"), rows=rows))
    loss(X, Y)
    assert calls == ["accepts", "rows"]


def test_a_kernel_never_sees_the_reduction() -> None:
    """Its operands do not contain one, and its rows serve all three reductions."""
    mlsm.register_kernel(_kernel(rows=_doubled))
    for reduction in ("none", "mean", "sum"):
        options: dict[str, Any] = {"reduction": reduction}
        check(loss(X, Y, **options), 2 * np.asarray(loss(X, Y, kernel="generic", **options)), 0, reduction)
    assert not {"reduction", "grad_output"} & set(_core.Operands._fields)


def test_an_error_inside_a_kernel_reaches_the_caller() -> None:
    """No silent fallback: the exception of a broken kernel is raised."""

    def broken(o: Any) -> Any:
        raise RuntimeError("the engine is on fire")

    mlsm.register_kernel(_kernel(rows=broken))
    with pytest.raises(RuntimeError, match="on fire"):
        loss(X, Y)


def test_a_third_partys_kernel_serves_tensors_that_need_a_gradient() -> None:
    torch = pytest.importorskip("torch", reason="the autograd node is PyTorch's")
    seen = []

    def rows(o: Any) -> Any:
        seen.append("rows")
        return torch.from_numpy(_core.rows(_host(o)))

    def rows_vjp(o: Any, g: Any) -> Any:
        seen.append("rows_vjp")
        return torch.from_numpy(_core.rows_vjp(_host(o), g.numpy()))

    def _host(o: Any) -> Any:
        return o._replace(xp=np, x=o.x.numpy(), y=o.y.numpy(), dtype=np.float64, acc=np.float64)

    mlsm.register_kernel(_kernel(libraries=("torch",), rows=rows, rows_vjp=rows_vjp))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    leaf = x.clone().requires_grad_()
    value = loss(leaf, y)
    assert seen == ["rows"]
    value.backward()
    assert seen == ["rows", "rows_vjp"]
    check(leaf.grad.numpy(), mlsm.grad(X, Y, kernel="generic"), 1e-16)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf, y), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    check(second.numpy(), mlsm.hessian_diag(X, Y, kernel="generic"), 1e-16)


def _narrow(v: Any) -> Any:
    return v.astype(np.float16) if isinstance(v, np.ndarray) else v.half()


def _cut(v: Any) -> Any:
    return v[:1]


def _listed(v: Any) -> Any:
    return v.tolist()


def _computed(result: Any) -> None:
    """A result, computed if it is Dask's, because blocks are checked only when they are computed."""
    for part in result if isinstance(result, tuple) else (result,):
        part.compute()


@pytest.mark.parametrize("library", ["numpy", "torch", "dask"])
@pytest.mark.parametrize(("wrong", "came"), [(_narrow, "float16"), (_cut, "shape"), (_listed, "list")])
def test_the_result_of_a_third_partys_kernel_is_checked_in_every_call(
    library: str, wrong: Any, came: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Any = np.asarray
    if library == "torch":
        make = pytest.importorskip("torch", reason="it has its own dispatch").as_tensor
    elif library == "dask":
        da = pytest.importorskip("dask.array", reason="it has its own dispatch")

        def make(v: Any) -> Any:
            return da.from_array(v, chunks=(2, 3))

    x, y = make(np.zeros((4, 3))), make(np.ones((4, 3)))
    right: dict[str, Any] = {f: getattr(_core, f) for f in ("rows", "rows_vjp", "curvature", "rows_and_vjp")}

    def broken(function: str, place: int | None = None) -> Kernel:
        def run(*arguments: Any) -> Any:
            found = right[function](*arguments)
            if place is None:
                return wrong(found)
            return tuple(wrong(v) if i == place else v for i, v in enumerate(found))

        return _kernel(libraries=("numpy", "torch"), **{**right, function: run})

    def forward(**options: Any) -> Any:
        return loss(x, y, **options)

    def backward(kept: int) -> Any:
        def run() -> None:
            monkeypatch.setattr(
                "mlsm.autograd.torch.KEPT", kept
            )  # the largest number of logits for which the forward pass stores a gradient
            leaf = x.clone().requires_grad_()
            loss(leaf, y, pos_weight=x.new_ones(4, 3), where=y > 0).backward()

        return run

    calls = [
        (forward, "rows", None),
        (lambda **o: mlsm.grad(x, y, **o), "rows_vjp", None),
        (lambda **o: mlsm.hessian_diag(x, y, **o), "curvature", None),
        (lambda **o: mlsm.value_and_grad(x, y, **o), "rows_and_vjp", 0),
        (lambda **o: mlsm.value_and_grad(x, y, **o), "rows_and_vjp", 1),
    ]
    if library == "torch":
        calls += [(backward(0), "rows", None), (backward(0), "rows_vjp", None)]
        calls += [(backward(100), "rows_and_vjp", place) for place in (0, 1)]
    for call, function, place in calls:
        mlsm.register_kernel(broken(function, place))
        with pytest.raises(RuntimeError, match=rf"The kernel 'ours' returned .*{came}.* from `{function}`; it must"):
            _computed(call())
        mlsm.unregister_kernel("ours")


def test_a_missing_pair_raises_and_a_scalar_row_is_accepted() -> None:
    mlsm.register_kernel(_kernel(rows_and_vjp=lambda o, g: _core.rows(o)))
    with pytest.raises(RuntimeError, match=r"'ours' must return a pair from `rows_and_vjp`.*got a ndarray"):
        mlsm.value_and_grad(X, Y)
    mlsm.unregister_kernel("ours")
    mlsm.register_kernel(_kernel(rows=lambda o: np.float64(_core.rows(o))))
    identical(loss(X[0], Y[0]), loss(X[0], Y[0], kernel="generic"))


def test_a_result_of_another_library_or_device_raises() -> None:
    torch = pytest.importorskip("torch", reason="it has devices, and is another library")
    mlsm.register_kernel(_kernel(rows=lambda o: torch.zeros(len(o.x))))
    with pytest.raises(RuntimeError, match=r"an array of torch.*as an array of numpy"):
        loss(X, Y)
    mlsm.unregister_kernel("ours")
    mlsm.register_kernel(_kernel(libraries=("torch",), rows=lambda o: _core.rows(o).to("meta")))
    with pytest.raises(RuntimeError, match=r"an array on meta.*as one on cpu"):
        loss(torch.from_numpy(X), torch.from_numpy(Y))


def test_a_kernel_for_arrays_and_tensors_gets_tensors_if_numpy_cannot_view_them() -> None:
    torch = pytest.importorskip("torch", reason="its tensors have devices")
    seen = []

    def rows(o: Any) -> Any:
        seen.append(type(o.x))
        return _core.rows(o)

    mlsm.register_kernel(_kernel(libraries=("numpy", "torch"), rows=rows))
    for device in ("cpu", "meta"):
        x, y = (torch.from_numpy(v).to(device) for v in (X, Y))
        for leaf in (x, x.clone().requires_grad_()):
            assert loss(leaf, y).device.type == device
    assert seen == [torch.Tensor, np.ndarray, torch.Tensor, torch.Tensor]


# ---------------------------------------------------------------- explanations


def test_explain_names_every_kernel_and_prints_as_a_table() -> None:
    mlsm.register_kernel(_kernel(accepts=lambda problem: "it is closed"))
    explained = mlsm.explain(X, Y)
    named = {explained.chosen, *(name for name, _ in explained.reasons)}
    assert named == set(_dispatch.names())
    assert all(reason for _, reason in explained.reasons)
    lines = str(explained).splitlines()
    assert len(lines) == len(named)
    assert lines[0].startswith(explained.chosen)
    assert any("it is closed" in line for line in lines)


def test_explain_shows_the_note_of_the_chosen_kernel() -> None:
    mlsm.register_kernel(_kernel(note=lambda problem: f"it warms up for {problem.library} first"))
    assert str(mlsm.explain(X, Y)).splitlines()[0].endswith("  serves this call; it warms up for numpy first")
    assert str(mlsm.explain(X, Y, kernel="generic")).splitlines()[0].endswith("  serves this call")
    mlsm.register_kernel(_kernel("silent", note=lambda problem: None))
    assert str(mlsm.explain(X, Y)).splitlines()[0].endswith("  serves this call")


def test_explain_computes_nothing() -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("computed")

    mlsm.register_kernel(_kernel(rows=never, rows_vjp=never, curvature=never))
    assert mlsm.explain(X, Y).chosen == "ours"


@needs_kernels
def test_explain_compares_the_chosen_kernel_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the identity of the string, because a file may build its name."""
    built = _dispatch._load("numpy")._replace(name="".join("numpy"))
    monkeypatch.setattr(_dispatch, "_loaded", _dispatch._loaded | {"numpy": built})
    monkeypatch.setattr(_dispatch, "_tables", {})
    assert "numpy" not in dict(mlsm.explain(X, Y, kernel="numpy").reasons)


def test_explain_of_a_forced_kernel() -> None:
    mlsm.register_kernel(_kernel())
    assert mlsm.explain(X, Y, kernel="generic").chosen == "generic"
    assert mlsm.explain(X, Y, kernel="ours").chosen == "ours"


def test_explain_names_the_reference_for_compilers_and_transforms() -> None:
    torch = pytest.importorskip("torch", reason="its transforms trace the operations")
    mlsm.register_kernel(_kernel(libraries=("torch",), rows=_doubled))
    seen = []

    def function(x: Any) -> Any:
        explained = mlsm.explain(x, torch.from_numpy(Y))
        seen.append((explained.chosen, dict(explained.reasons)["ours"]))
        return loss(x, torch.from_numpy(Y))

    gradient = torch.func.grad(function)(torch.from_numpy(X))
    check(gradient.numpy(), mlsm.grad(X, Y, kernel="generic"), 1e-16)
    assert seen[0][0] == "generic"
    assert "transform" in seen[0][1]


# ---------------------------------------------------------------- mlsm's own kernel files


@pytest.mark.parametrize("engine", ["aaa_engine", "aaa_engine.sub", "zzz_engine", "mlsmx"])
def test_a_missing_engine_is_a_reason_to_decline(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _loading(ModuleNotFoundError(f"No module named {engine!r}", name=engine), monkeypatch)
    assert found == f"a package that it needs is not installed: no module named {engine!r}"
    assert _dispatch._load("some") is found  # not searched for again


@pytest.mark.parametrize("name", [None, "mlsm", "mlsm.kernels.some", "mlsm.kernels._gone"])
def test_a_broken_kernel_file_raises(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError, match="broken"):
        _loading(ModuleNotFoundError("broken", name=name), monkeypatch)


def _loading(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load a kernel file whose import raises this."""

    def broken(name: str) -> Any:
        assert name == "mlsm.kernels.some"
        raise error

    monkeypatch.setattr(_dispatch, "_loaded", {})
    monkeypatch.setattr(_dispatch.importlib, "import_module", broken)
    return _dispatch._load("some")


@pytest.mark.parametrize("spec", [None, ModuleSpec("mlsm.kernels", None)], ids=["no folder", "an empty folder"])
def test_the_folder_may_be_deleted(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch.importlib.util, "find_spec", lambda name: spec)
    assert _dispatch._ours.__wrapped__() == {}


def test_the_folder_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call does not read the disk to see whether a file was added or removed."""
    before = mlsm.explain(X, Y)

    def never(name: str) -> Any:
        raise AssertionError(f"looked for {name}")

    monkeypatch.setattr(_dispatch.importlib.util, "find_spec", never)
    assert mlsm.explain(X, Y) == before


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if mlsm/kernels/ were deleted."""
    monkeypatch.setattr(_dispatch, "_ours", dict)
    monkeypatch.setattr(_dispatch, "_tables", {})


@pytest.mark.usefixtures("removed")
def test_without_kernels_the_reference_serves() -> None:
    assert mlsm.explain(X, Y).chosen == "generic"
    assert _dispatch.names() == ("generic",)
    with pytest.raises(ValueError, match=r"`kernel` must be one of generic"):
        loss(X, Y, kernel="numpy")


@pytest.mark.parametrize("name", ["name", "rows", "note", "anything"])
def test_a_kernel_is_frozen(name: str) -> None:
    kernel = mlsm.Kernel("frozen", ("numpy",), lambda problem: None, _core.rows)
    with pytest.raises(AttributeError, match=f"`{name}`"):
        setattr(kernel, name, None)
    with pytest.raises(AttributeError, match=f"`{name}`"):
        delattr(kernel, name)
    assert kernel.name == "frozen"
