"""Short names of the options, for a conftest that names plugins; ``-p cl_bench.plugin`` adds them without this.

A plugin that a conftest names is loaded too late for the hook by which the others' options are known to be complete.
"""

import pytest

from cl_bench.plugin.options import add_options, tell_nearest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add each option by its short name, such as ``--method``, unless that is taken."""
    add_options(parser, "--")
    config = pluginmanager.get_plugin("pytestconfig")
    if isinstance(config, pytest.Config):
        tell_nearest(parser, config.invocation_params.args)
