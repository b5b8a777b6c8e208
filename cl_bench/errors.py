"""What can go wrong in a way the user is told about in one line."""


class Diverged(ArithmeticError):
    """A loss or a feature left the finite numbers; the run ends as ``diverged`` and is left out of tau by name."""


class MethodError(ValueError):
    """A method that cannot be found, loaded or used; the message names it, and its file and line where it has one."""
