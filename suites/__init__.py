"""The claims of the paper, one question a file; ``--pyargs cl_bench.suites`` where cl-bench is installed."""
