"""Sub-commands of ``cl-bench``, each a module with ``add_arguments(parser)`` and ``run(arguments) -> exit status``."""
