"""record(spec), the memoised way, and who computes what is missing: workers on this machine, or Ray."""
