"""The command ``cl-bench`` as ``python -m cl_bench``, for where scripts are not on the path."""

import sys

from cl_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
