"""`python -m tools.planted`: see `tools.planted.runner`."""

import sys

from tools.planted.runner import main

if __name__ == "__main__":
    sys.exit(main())
