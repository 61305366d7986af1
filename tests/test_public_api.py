"""The public names are those of the contract, each with its signature and a complete docstring."""

import inspect
import pathlib
import re
from typing import Any

import pytest

import mlsm

OPTIONS = {"reduction": "mean", "pos_weight": None, "where": None, "label_smoothing": 0.0, "axis": -1}
LINEAR = {name: default for name, default in OPTIONS.items() if name != "axis"}
POSITIONAL = ["input", "target", "weight"]
FUNCTIONS: dict[str, dict[str, Any]] = {
    "multilabel_soft_margin_loss": OPTIONS | {"kernel": None},
    "grad": {"grad_output": None, "wrt": "input"} | OPTIONS | {"kernel": None},
    "value_and_grad": {"grad_output": None} | OPTIONS | {"kernel": None},
    "hessian_diag": {"grad_output": None} | OPTIONS | {"kernel": None},
    "sigmoid_binary_cross_entropy": {"pos_weight": None, "where": None, "label_smoothing": 0.0, "kernel": None},
    "explain": OPTIONS | {"kernel": None},
    "diagnose": OPTIONS,
    "linear_multilabel_soft_margin_loss": {"linear_bias": None} | LINEAR | {"kernel": None},
    "linear_value_and_grad": {"linear_bias": None, "grad_output": None} | LINEAR | {"kernel": None},
}
METHODS: dict[str, tuple[list[str], list[str]]] = {
    "__call__": (["input", "target"], ["where", "kernel"]),
    "forward": (["input", "target"], ["where", "kernel"]),
    "grad": (["input", "target"], ["grad_output", "wrt", "where", "kernel"]),
    "backward": (["input", "target", "grad_output"], ["wrt", "where", "kernel"]),
    "value_and_grad": (["input", "target"], ["grad_output", "where", "kernel"]),
    "hessian_diag": (["input", "target"], ["grad_output", "where", "kernel"]),
}


def test_public_names() -> None:
    assert set(mlsm.__all__) == {
        *FUNCTIONS,
        "Kernel",
        "Labels",
        "MultiLabelSoftMarginLoss",
        "__version__",
        "register_kernel",
        "unregister_kernel",
    }
    public = {name for name in vars(mlsm) if not name.startswith("_") and not inspect.ismodule(getattr(mlsm, name))}
    assert public == {name for name in mlsm.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_of_a_function(name: str) -> None:
    parameters = inspect.signature(getattr(mlsm, name)).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    linear = ["linear_weight"] if name.startswith("linear") else []
    assert positional == [*POSITIONAL[:1], *linear, *POSITIONAL[1:]]
    assert parameters["weight"].default is None
    keywords = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert keywords == FUNCTIONS[name]
    assert len(parameters) == len(positional) + len(keywords)


def test_signature_of_the_class() -> None:
    parameters = inspect.signature(mlsm.MultiLabelSoftMarginLoss).parameters
    assert [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == ["weight", "reduction"]
    assert {p.name: p.default for p in parameters.values()} == {
        "weight": None,
        "reduction": "mean",
        "pos_weight": None,
        "label_smoothing": 0.0,
        "axis": -1,
    }


@pytest.mark.parametrize("name", METHODS)
def test_signature_of_a_method(name: str) -> None:
    parameters = inspect.signature(getattr(mlsm.MultiLabelSoftMarginLoss(), name)).parameters
    positional, keywords = METHODS[name]
    assert [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    assert [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY] == keywords


def test_the_nn_module_takes_the_same_options() -> None:
    pytest.importorskip("torch", reason="the twin is an nn.Module")
    import mlsm.nn.torch as twin

    own = inspect.signature(mlsm.MultiLabelSoftMarginLoss).parameters
    other = inspect.signature(twin.MultiLabelSoftMarginLoss).parameters
    assert [(p.name, p.kind, p.default) for p in own.values()] == [(p.name, p.kind, p.default) for p in other.values()]


SECTIONS = {
    "multilabel_soft_margin_loss": ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"],
    "grad": ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"],
    "value_and_grad": ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"],
    "hessian_diag": ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"],
    "sigmoid_binary_cross_entropy": ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"],
    "explain": ["Parameters", "Returns", "Raises", "Examples"],
    "diagnose": ["Parameters", "Returns", "Raises", "Examples"],
    "linear_multilabel_soft_margin_loss": ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"],
    "linear_value_and_grad": ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"],
    "Labels": ["Parameters", "Attributes", "Raises", "References", "Examples"],
    "MultiLabelSoftMarginLoss": ["Parameters", "Raises", "References", "Examples"],
    "register_kernel": ["Parameters", "Raises", "Examples"],
    "Kernel": ["Parameters", "Notes", "References", "Examples"],
    "unregister_kernel": ["Parameters", "Raises", "Examples"],
}


def test_every_public_name_is_documented() -> None:
    assert set(SECTIONS) == set(mlsm.__all__) - {"__version__"}


@pytest.mark.parametrize("name", SECTIONS)
def test_docstring_has_every_section(name: str) -> None:
    text = inspect.getdoc(getattr(mlsm, name))
    assert text is not None
    first = text.splitlines()[0]
    assert first.endswith(".")
    found = re.findall(r"^(\w+)\n-+$", text, flags=re.MULTILINE)
    assert found == SECTIONS[name]
    assert ">>> " in text.partition("Examples")[2]


@pytest.mark.parametrize("name", [n for n in SECTIONS if n[0].islower()])
def test_docstring_names_every_parameter(name: str) -> None:
    function = getattr(mlsm, name)
    text = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", text), parameter


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_docstrings(name: str) -> None:
    assert inspect.getdoc(getattr(mlsm.MultiLabelSoftMarginLoss, name))


def test_annotations_are_complete() -> None:
    for name in FUNCTIONS:
        signature = inspect.signature(getattr(mlsm, name))
        assert signature.return_annotation is not signature.empty, name
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), name


def test_version_is_one_string() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?(\.dev\d+)?", mlsm.__version__)


def test_the_package_is_typed() -> None:
    assert mlsm.__file__ is not None
    assert (pathlib.Path(mlsm.__file__).parent / "py.typed").is_file()


def test_only_one_file_has_the_formula() -> None:
    """It is recognised by log1p: no code computes the loss except _core and the kernels."""
    assert mlsm.__file__ is not None
    package = pathlib.Path(mlsm.__file__).parent
    with_formula = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.parent.name != "kernels" and re.search(r"\.(log1p|exp)\(", path.read_text(encoding="utf-8"))
    }
    assert with_formula == {"_core.py"}


def test_the_formula_names_no_library() -> None:
    assert mlsm.__file__ is not None
    text = (pathlib.Path(mlsm.__file__).parent / "_core.py").read_text(encoding="utf-8")
    code = re.sub(r'""".*?"""|#[^\n]*', "", text, flags=re.DOTALL)
    assert not re.search(r"\b(numpy|torch|jax|dask|cupy|array_api)\b", code)
    assert set(re.findall(r"^(?:from|import) (\S+)", code, flags=re.MULTILINE)) <= {"typing", "._typing", "._operands"}
