"""The kernel table against a list as its model: any order of registrations, removals and calls gives equal results.

Each kernel multiplies the loss by its own number, so that the value shows which kernel served a call. Three faults
that are planted in the table are found.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import mlsm
from mlsm import _core, _dispatch
from mlsm_conformance import strategies

X, Y = np.asarray([[0.5, -1.0, 2.0]]), np.asarray([[1, 0, 1]])
ONE = float(mlsm.multilabel_soft_margin_loss(X, Y, kernel="generic"))

names = st.sampled_from(["a", "ab", "b", "generic"])
libraries = st.sampled_from([("numpy",), ("torch",), ("numpy", "torch"), ("elsewhere",)])


class Entry(NamedTuple):
    """The model's data of a kernel."""

    name: str
    reason: str | None  # why it would not serve NumPy arrays
    factor: int


class Table(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        assert not _dispatch._registered
        self.entries: list[Entry] = []  # the latest first
        self.made = 1
        self.before = mlsm.explain(X, Y)

    def teardown(self) -> None:
        with _dispatch._lock:  # without the functions that are tested
            _dispatch._registered = ()
            _dispatch._tables = {}

    # ---------------------------------------------------------------- the rules

    @rule(name=names, libraries=libraries, closed=st.booleans())
    def register(self, name: str, libraries: tuple[str, ...], closed: bool) -> None:
        self.made += 1
        factor = self.made
        reason = "it is closed" if closed else None
        kernel = mlsm.Kernel(name, libraries, lambda problem: reason, lambda o: factor * _core.rows(o))
        if name in {e.name for e in self.entries} | {self.before.chosen} | dict(self.before.reasons).keys():
            with pytest.raises(ValueError, match=f"{name!r} is registered already"):
                mlsm.register_kernel(kernel)
            return
        mlsm.register_kernel(kernel)
        if "numpy" not in libraries:
            reason = f"it serves {', '.join(libraries)}, not numpy"
        self.entries.insert(0, Entry(name, reason, factor))

    @rule(name=names)
    def unregister(self, name: str) -> None:
        if any(e.name == name for e in self.entries):
            mlsm.unregister_kernel(name)
            self.entries = [e for e in self.entries if e.name != name]
        else:
            with pytest.raises(ValueError, match="`name`"):
                mlsm.unregister_kernel(name)

    @rule(name=names)
    def force(self, name: str) -> None:
        entry = next((e for e in self.entries if e.name == name), None)
        if entry is not None and entry.reason is None:
            assert self.factor(name) == entry.factor
            assert mlsm.explain(X, Y, kernel=name).chosen == name
        elif entry is not None:
            with pytest.raises(ValueError, match=f"{name!r} cannot serve this call: {entry.reason}"):
                self.factor(name)
        elif name not in _dispatch.names():
            with pytest.raises(ValueError, match=f"`kernel` must be one of .*; got {name!r}"):
                self.factor(name)
        else:
            assert self.factor(name) == 1

    @rule()
    def call(self) -> None:
        assert self.factor(None) == next((e.factor for e in self.entries if e.reason is None), 1)

    def factor(self, kernel: str | None) -> float:
        return round(float(mlsm.multilabel_soft_margin_loss(X, Y, kernel=kernel)) / ONE, 9)

    # ---------------------------------------------------------------- the invariants

    @invariant()
    def names_are_the_lists(self) -> None:
        assert _dispatch.names() == (*(e.name for e in self.entries), *_dispatch._ours(), "generic")

    @invariant()
    def explain_agrees_with_the_list(self) -> None:
        explained = mlsm.explain(X, Y)
        reasons = dict(explained.reasons)
        assert explained.chosen == next((e.name for e in self.entries if e.reason is None), self.before.chosen)
        assert sorted((explained.chosen, *reasons)) == sorted(_dispatch.names())
        for entry in self.entries:
            if entry.name != explained.chosen:
                expected = entry.reason or f"it could serve this call; {explained.chosen} comes first"
                assert reasons.get(entry.name) == expected


quick = settings(strategies.profile("quick"), max_examples=40, stateful_step_count=20)
unshrunk = settings(quick, phases=[Phase.generate], report_multiple_bugs=False)  # for planted faults


def test_the_table_agrees_with_a_list() -> None:
    run_state_machine_as_test(Table, settings=quick)


# ---------------------------------------------------------------- the machine finds planted faults


def _last(kernel: Any) -> None:
    """Registers a kernel, but after the others."""
    _register(kernel)
    _dispatch._registered = (*_dispatch._registered[1:], kernel)


def _by_beginning(name: str) -> None:
    """Unregisters every kernel whose name begins with this one."""
    _unregister(name)
    _dispatch._registered = tuple(k for k in _dispatch._registered if not k.name.startswith(name))


_register, _unregister = mlsm.register_kernel, mlsm.unregister_kernel
PLANTED: dict[str, tuple[Any, str, Any]] = {
    "a cache that is not cleared": (_dispatch, "_table", functools.cache(_dispatch._table)),
    "the latest comes last": (mlsm, "register_kernel", _last),
    "more than one is unregistered": (mlsm, "unregister_kernel", _by_beginning),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PLANTED[fault])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Table, settings=unshrunk)
