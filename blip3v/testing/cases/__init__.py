"""Named calls of every op, one file per op: tests and benchmarks draw from the same lists."""
