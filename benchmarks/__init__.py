"""One script a claim: each prints one JSON line last and writes it to `results/benchmarks/`."""
