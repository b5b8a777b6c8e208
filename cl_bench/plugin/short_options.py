"""Short names of the options, for a conftest that names plugins; with ``-p cl_bench.plugin`` they come by themselves.

A conftest is read so late that the plugins it names learn of no later moment at which all others have chosen theirs.
"""

import pytest

from cl_bench.plugin.options import add_options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add each option as ``--method``, unless its name is taken."""
    add_options(parser, "--")
