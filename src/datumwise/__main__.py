"""``python -m datumwise``."""

from __future__ import annotations

import sys

from datumwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
