"""`python -m blip3v COMMAND ...`, and with it `torchrun --nproc-per-node 8 -m blip3v train ...`."""

from __future__ import annotations

import sys

from blip3v.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
