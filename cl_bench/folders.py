"""The folders that stand at the top of a checkout and lie inside the package where it is installed."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def methods_folder() -> Path:
    """Return the folder of the strategies that come with cl-bench."""
    return _inside("methods/built_in", "methods")


def suites_folder() -> Path:
    """Return the folder of the suites."""
    return _inside("suites", "suites")


def _inside(installed: str, checkout: str) -> Path:
    return PACKAGE / installed if (PACKAGE / installed).is_dir() else PACKAGE.parent / checkout
