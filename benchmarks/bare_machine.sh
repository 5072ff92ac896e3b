#!/usr/bin/env bash
# Everything that only a GPU can show, on a machine without network: benchmarks/bare_machine.sh RESULTS [part ...]
#
# Parts: build, tests, ops, stages, tokens, train, learning, end_to_end, decode, sanitize; all of them unless some are named.
# Each writes RESULTS/<part>.log, and RESULTS/<part>.done when it passed: run again, it goes on with what is not done, and
# a level of `blip3v bench` with the row it was at. A part that fails does not stop the others. SECONDS_PER_PART (default
# 240) bounds each but learning, which trains for LEARNING_MINUTES (default 5) and has ten more to load and compile. Needs
# nvcc, and the headers of CUTLASS in CUTLASS_PATH or the nvidia-cutlass wheel. What Python lacks is installed from the
# wheels in WHEELS, if that is set.
set -u
cd "$(dirname "$0")/.."
results=$(mkdir -p "$1" && cd "$1" && pwd)
shift
python=${PYTHON:-python3}
limit=${SECONDS_PER_PART:-240}
device=${DEVICE:-cuda}
learning_minutes=${LEARNING_MINUTES:-5}
export BLIP3V_REQUIRE_GPU=1 PYTHONUNBUFFERED=1 PYTHONPATH=$PWD

build() { # in place: nothing is fetched
  if [ -n "${WHEELS:-}" ]; then "$python" -m pip install --no-index --no-deps "$WHEELS"/*.whl; fi
  BLIP3V_CUDA=1 BLIP3V_SIM=0 MAX_JOBS=${MAX_JOBS:-$(nproc)} "$python" setup.py build_ext --inplace
  "$python" -m blip3v.cli.main doctor
}

tests() { # kernels first; some modules of the rest may want packages that are not here
  "$python" -m pytest -q -m gpu tests/ops tests/test_build.py
  "$python" -m pytest -q -m gpu --continue-on-collection-errors tests --ignore tests/ops --ignore tests/test_build.py
}

level() { "$python" -m blip3v.cli.main bench "$1" --device "$device" --out "$results" --resume; }
ops() { level ops; }
stages() { level stages; }
tokens() { level tokens; }
train() {
  level train
  "$python" -m benchmarks.train.worth "$results/train.json" || true # where the fastest cannot run
  "$python" -m benchmarks.train.hours "$results/train.json"
}
learning() {
  rm -rf "$results/learning" # of a run that did not pass
  "$python" -m benchmarks.train.learning --device "$device" --minutes "$learning_minutes" --out "$results/learning"
}
end_to_end() { level end_to_end; }
decode() { # with the wheel of nvidia-dali, 190 MB, on the decoder engines; without it, what the CPU does
  level decode
  "$python" -m benchmarks.decode.formats --out "$results/formats.json"
  "$python" -m benchmarks.decode.torture --out "$results/torture.json"
}

sanitize() {
  local tool
  for tool in memcheck racecheck synccheck initcheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool --error-exitcode 1 \
      "$python" -m pytest -q -m gpu tests/ops -k "cuda and not large" || return 1
  done
}

export -f build tests level ops stages tokens train learning end_to_end decode sanitize
export python results device learning_minutes
[ $# -gt 0 ] || set -- build tests ops stages tokens train learning end_to_end decode sanitize
for part in "$@"; do
  [ -e "$results/$part.done" ] && { echo "$part: done before"; continue; }
  start=$SECONDS
  allowed=$limit
  [ "$part" != learning ] || allowed=$(((${learning_minutes%.*} + 10) * 60))
  if timeout "$allowed" bash -euo pipefail -c "$part" >"$results/$part.log" 2>&1; then
    touch "$results/$part.done"
    echo "$part: passed in $((SECONDS - start)) s"
  else
    echo "$part: FAILED after $((SECONDS - start)) s, see $results/$part.log:"
    tail -5 "$results/$part.log"
  fi
done
