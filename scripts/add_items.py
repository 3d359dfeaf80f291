"""`seqrec add-items` as a script."""

import sys

from seqrec_jax.cli import run

if __name__ == "__main__":
    sys.exit(run(["add-items", *sys.argv[1:]]))
