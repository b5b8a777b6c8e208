"""The options and fixtures of the suites live in the plugin."""

pytest_plugins = ["cl_bench.plugin", "cl_bench.plugin.short_options"]
