#!/usr/bin/env bash
# Everything that only a GPU can show, on a machine without network: benchmarks/bare_machine.sh RESULTS [part ...]
#
# Parts: build, tests, ops, sanitize; all of them unless some are named. Each writes RESULTS/<part>.log, and RESULTS/<part>.done
# when it passed: run again, it goes on with what is not done. A part that fails does not stop the others. SECONDS_PER_PART
# (default 240) bounds each. Needs nvcc, and the headers of CUTLASS in CUTLASS_PATH or the nvidia-cutlass wheel.
set -u
cd "$(dirname "$0")/.."
results=$(mkdir -p "$1" && cd "$1" && pwd)
shift
python=${PYTHON:-python3}
limit=${SECONDS_PER_PART:-240}
export BLIP3V_REQUIRE_GPU=1 PYTHONUNBUFFERED=1

build() { # in place: nothing is fetched, nothing installed
  BLIP3V_CUDA=1 BLIP3V_SIM=0 MAX_JOBS=${MAX_JOBS:-$(nproc)} "$python" setup.py build_ext --inplace
  "$python" -m blip3v.cli.main doctor
}

tests() { "$python" -m pytest -q -m gpu tests/ops tests/test_build.py; }

ops() {
  local failed=0 bench
  for bench in benchmarks/ops/bench_*.py; do
    bench=$(basename "$bench" .py)
    "$python" -m "benchmarks.ops.$bench" --json "$results/${bench#bench_}.json" || failed=1
  done
  return $failed
}

sanitize() {
  local tool
  for tool in memcheck racecheck synccheck initcheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool --error-exitcode 1 \
      "$python" -m pytest -q -m gpu tests/ops -k "cuda and not large" || return 1
  done
}

export -f build tests ops sanitize
export python results
[ $# -gt 0 ] || set -- build tests ops sanitize
for part in "$@"; do
  [ -e "$results/$part.done" ] && { echo "$part: done before"; continue; }
  start=$SECONDS
  if timeout "$limit" bash -euo pipefail -c "$part" >"$results/$part.log" 2>&1; then
    touch "$results/$part.done"
    echo "$part: passed in $((SECONDS - start)) s"
  else
    echo "$part: FAILED after $((SECONDS - start)) s, see $results/$part.log:"
    tail -5 "$results/$part.log"
  fi
done
