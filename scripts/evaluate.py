"""`seqrec evaluate` as a script."""

import sys

from seqrec_jax.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
