"""The applications that the benchmarks run."""
