"""The sub-commands of ``cl-bench``, one a module: ``add_arguments(parser)`` and ``run(arguments) -> exit status``."""
