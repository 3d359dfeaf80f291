"""`python -m seqrec_jax.cli` as `seqrec`."""

from seqrec_jax.cli import main

if __name__ == "__main__":
    main()
