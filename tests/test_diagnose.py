"""`mlsm.diagnose`: each mistake causes its finding, and no other."""

import contextlib

import numpy as np
import pytest

import mlsm
from mlsm import _diagnose
from mlsm.libraries import library_of

LOGITS = np.array([[2.0, -1.5, 0.25], [-0.5, 3.0, -2.0], [1.5, -0.75, 4.0]])
LABELS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0]])


def found(*args, **options):
    """(argument, number, total, unit, first word or two of the advice) of each finding."""
    return [(f.argument, f.number, f.total, f.unit, f.advice) for f in mlsm.diagnose(*args, **options).findings]


def changed(array, **entries):
    array = np.array(array, dtype=float)
    for place, value in entries.items():
        array[int(place[1]), int(place[2])] = value
    return array


def test_a_good_call_has_no_finding():
    told = mlsm.diagnose(LOGITS, LABELS, [1.0, 2.0, 0.5], pos_weight=2.0, label_smoothing=0.1)
    assert told.ok
    assert told.findings == ()
    assert str(told) == "3 rows, 3 classes, 9 of 9 labels observed: nothing suspicious"


MISTAKES = {
    "probabilities": ((1 / (1 + np.exp(-LOGITS)), LABELS), ("input", 9, 9, "logits"), "look like probabilities"),
    "swapped": ((LABELS.astype(float), LOGITS), ("input", 9, 9, "logits"), "swapped"),
    "nan logit": ((changed(LOGITS, _01=np.nan), LABELS), ("input", 1, 9, "logits"), "NaN"),
    "infinite logit": ((changed(LOGITS, _00=np.inf), LABELS), ("input", 1, 9, "logits"), "are infinite"),
    "infinite term": ((changed(LOGITS, _01=np.inf), LABELS), ("input", 1, 9, "terms"), "contradicts"),
    "nan target": ((LOGITS, changed(LABELS, _22=np.nan)), ("target", 1, 9, "targets"), "`where=`"),
    "signs": ((LOGITS, 2 * LABELS - 1), ("target", 5, 9, "targets"), "(target + 1) / 2"),
    "outside": ((LOGITS, changed(LABELS, _00=17)), ("target", 1, 9, "targets"), "outside [0, 1]"),
    "missing marker": ((LOGITS, changed(LABELS, _00=-100, _01=-100)), ("target", 2, 9, "targets"), "`where=`"),
    "row without": ((LOGITS, changed(LABELS, _11=0)), ("target", 1, 3, "rows"), "no positive"),
    "class without": ((LOGITS, changed(LABELS, _02=0)), ("target", 1, 3, "classes"), "no positive"),
    "class full": ((LOGITS, changed(LABELS, _01=1, _21=1)), ("target", 1, 3, "classes"), "no negative"),
    "negative weight": ((LOGITS, LABELS, [1.0, -2.0, 1.0]), ("weight", 1, 3, "entries"), "negative"),
    "odd weight": ((LOGITS, LABELS, [1.0, np.nan, np.inf]), ("weight", 2, 3, "entries"), "NaN or infinite"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found_with_its_remedy(mistake):
    call, where, advice = MISTAKES[mistake]
    findings = found(*call)
    match = [f for f in findings if f[:4] == where and advice in f[4]]
    assert len(match) == 1, findings
    assert " of ".join(map(str, where[1:3])) in str(mlsm.diagnose(*call))


def test_pos_weight_is_examined():
    assert found(LOGITS, LABELS, pos_weight=-1.0)[0][:4] == ("pos_weight", 1, 1, "entries")


def test_masked_entries_are_not_examined():
    hidden = np.ones((3, 3), dtype=bool)
    hidden[0, 1] = False
    assert mlsm.diagnose(changed(LOGITS, _01=np.nan), changed(LABELS, _01=-100), where=hidden).ok


def test_rows_and_classes_without_an_observed_label():
    seen = np.ones((3, 3), dtype=bool)
    seen[1, :] = False
    seen[:, 2] = False
    told = mlsm.diagnose(LOGITS, LABELS, where=seen)
    assert told.observed == 4
    assert [(f.argument, f.number, f.unit) for f in told.findings if f.argument == "where"] == [
        ("where", 1, "rows"),
        ("where", 1, "classes"),
    ]


def test_the_class_axis_and_further_batch_axes():
    told = mlsm.diagnose(LOGITS.T[:, :, None], LABELS.T[:, :, None], axis=0)
    assert (told.rows, told.classes, told.ok) == (3, 3, True)


def test_a_single_row_and_an_empty_batch():
    assert mlsm.diagnose(LOGITS[0], LABELS[0]).rows == 1
    (finding,) = mlsm.diagnose(LOGITS[:0], LABELS[:0]).findings
    assert (finding.argument, finding.unit) == ("input", "batches")


def test_float16_gradients_that_round_to_zero():
    x = np.zeros((2**13, 2**12), dtype=np.float16)
    x[0] = -1
    assert 1 / x.size < 2.0**-24
    advice = [f.advice for f in mlsm.diagnose(x, x < 0).findings]
    assert any("float16 rounds to 0" in a for a in advice)
    assert not any("float16 rounds to 0" in f.advice for f in mlsm.diagnose(x, x < 0, reduction="sum").findings)


def test_every_library_finds_the_same(library):
    x, y, seen = (1 / (1 + np.exp(-LOGITS))).astype(np.float32), changed(LABELS, _00=3).astype(np.float32), LOGITS < 4
    expected = mlsm.diagnose(x, y, where=seen)
    assert [f[:3] for f in expected.findings if f.argument == "input"] == [("input", 8, 8)]
    assert mlsm.diagnose(*map(library.make, (x, y)), where=library.make(seen)) == expected


def test_values_are_examined_on_the_device_of_the_arrays(monkeypatch):
    """CuPy computes on the current device, which mlsm sets to that of the arrays."""
    inside = []

    @contextlib.contextmanager
    def errstate(self, device):
        inside.append(device)
        yield
        inside.pop()

    counted = _diagnose._counts
    monkeypatch.setattr(type(library_of(LOGITS, "input")), "errstate", errstate)
    monkeypatch.setattr(_diagnose, "_counts", lambda o: (seen.extend(inside), counted(o))[1])
    seen = []
    assert mlsm.diagnose(LOGITS, LABELS).ok
    assert seen == ["cpu"]


def test_a_trace_has_no_values():
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(LOGITS)
    with pytest.raises(TypeError, match="outside of `jit`"):
        jax.jit(lambda a: mlsm.diagnose(a, a))(x)


def test_an_invalid_call_is_refused_like_that_of_the_loss():
    with pytest.raises(ValueError, match="`target` must have exactly the shape"):
        mlsm.diagnose(LOGITS, LABELS[:2])
