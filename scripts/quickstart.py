"""`seqrec quickstart` as a script: the whole job on the simulated shop, all in runs/quickstart/."""

import sys

from seqrec_jax.cli import run

if __name__ == "__main__":
    sys.exit(run(["quickstart", *sys.argv[1:]]))
