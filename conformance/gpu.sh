#!/usr/bin/env bash
# All checks of this project that need an NVIDIA GPU, in one call of under ten minutes and offline: the suite on CuPy,
# CUDA tensors and JAX, the tests that need a device, and speed compared with PyTorch's.
#
#   conformance/gpu.sh RESULTS [WHEELS]
#
# RESULTS is a folder: one JSON and one log for each part, and `summary` with their exit codes. WHEELS is a folder with
# wheels of array-api-compat, mpmath and this project, for a machine that has CuPy, PyTorch, JAX, NumPy, hypothesis and
# pytest and no network; without it they must be importable. MLSM_DRY_RUN=1 runs a small part of this on a CPU.
set -uo pipefail

results=${1:?usage: conformance/gpu.sh RESULTS [WHEELS]}
wheels=${2:-}
python=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$results"
results=$(cd "$results" && pwd)
: >"$results/summary"

if [[ -n $wheels ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$results/packages" --find-links "$wheels" \
        array-api-compat mpmath mlsm || exit 2
    export PYTHONPATH="$results/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # the parts share one device

# part NAME SECONDS COMMAND...: writes its output to a log and its exit code to the summary; a failure ends no other part.
part() {
    local name=$1 seconds=$2 code=0
    shift 2
    timeout --kill-after=10 "$seconds" "$@" >"$results/$name.log" 2>&1 || code=$?
    echo "$name $code" >>"$results/summary"
}

suite() {
    local name=$1 backend=$2
    shift 2
    part "$name" 330 "$python" -m mlsm_conformance run "$backend" --jobs 1 --no-curves --json "$results/$name.json" "$@"
}

cd "$results" || exit 2  # not the checkout, whose folders would be found before the installed packages
if [[ -n ${MLSM_DRY_RUN:-} ]]; then
    suite numpy numpy --level smoke --check types &
    suite torch torch --level smoke --check types &
    wait
    part bench 120 "$python" -m mlsm_conformance.bench.gpu "$results/bench.json" --device cpu --seconds 60 --no-compile
else
    part device 30 nvidia-smi -q
    suite cupy cupy --level quick --require cupy &
    suite torch-cuda torch-cuda --level quick --require torch-cuda &
    suite jax jax --level quick --require jax &
    suite triton torch-cuda --kernel triton --level quick --check values --check special --check types &
    if [[ -d $here/tests ]]; then
        part tests 330 "$python" -m pytest -q -p no:cacheprovider "$here/tests/libraries/test_cupy.py" \
            "$here/tests/kernels/test_cupy.py" -k "test_device or test_cupy or stream_of_another" &
    fi
    wait
    part bench 230 "$python" -m mlsm_conformance.bench.gpu "$results/bench.json" --seconds 180
fi
cat "$results/summary"
! grep -qv ' 0$' "$results/summary"
