"""`seqrec doctor` as a script."""

import sys

from seqrec_jax.cli import run

if __name__ == "__main__":
    sys.exit(run(["doctor", *sys.argv[1:]]))
