"""`python -m torture`: what rounds.py says, in a process with mounts of its own."""

import os
import sys

from torture.mounts import MOUNTS, start_again

if __name__ == "__main__":
    if MOUNTS not in os.environ:
        start_again()
    from torture.rounds import main

    sys.exit(main())
