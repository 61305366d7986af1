"""`python -m mlsm`: a line for each library, device and dtype, and the reasons with `--why`."""

import json

import numpy as np
import pytest

import mlsm
from mlsm.__main__ import main


def printed(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_one_line_per_library_and_dtype(capsys):
    text = printed(capsys)
    kernel = mlsm.explain(np.zeros((2, 3), dtype=np.float32), np.zeros((2, 3))).chosen
    lines = [line.split() for line in text.splitlines()]
    assert ["numpy", np.__version__, "cpu", "float32", kernel] in lines
    assert f"mlsm {mlsm.__version__}" in text
    assert "threads: " in text
    assert "comes first" not in text
    assert "--why" in text


def test_why_prints_the_reason_of_each_kernel_that_declines(capsys):
    assert "generic: the reference; " in printed(capsys, "--why")


def test_the_line_of_jax_says_how_to_switch_on_float64(capsys):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        off = [line for line in printed(capsys).splitlines() if line.startswith("jax ") and " float64 " in line]
    assert off
    assert all('jax.config.update("jax_enable_x64", True)' in line for line in off)
    with jax.enable_x64(True):
        assert 'jax.config.update("jax_enable_x64"' not in printed(capsys)


def test_json_contains_the_same_data(capsys):
    told = json.loads(printed(capsys, "--json"))
    assert told["threads"] >= 1
    assert told["libraries"]["numpy"]["kernels"][0]["declined"]
