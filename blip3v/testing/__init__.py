"""What tests and benchmarks share: named cases, comparison with float64, timing. It knows no op."""
