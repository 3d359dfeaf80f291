"""`seqrec embed` as a script."""

import sys

from seqrec_jax.cli import main

if __name__ == "__main__":
    main(["embed", *sys.argv[1:]])
