"""``python -m proactorx``: see :mod:`proactorx.cli`."""

from __future__ import annotations

import sys

from proactorx.cli import main

if __name__ == "__main__":
    sys.exit(main())
