"""Trains the tiny model in a directory, with checkpoints every so many seconds: test_killed_runs.py kills it."""

import sys
from pathlib import Path

import numpy as np
from tiny_training import train_tiny

from seqrec_jax.training import loop

NUM_USERS, MAX_EPOCHS = 3000, 5


def validate(params: dict) -> dict[str, float]:
    return {"score": float(np.abs(np.asarray(params["items"]["ids"]["embedding"])).sum())}


if __name__ == "__main__":
    loop.CHUNK_SECONDS = 0.02  # many chunks in a short run
    train_tiny(
        Path(sys.argv[1]),
        validate=validate,
        num_users=NUM_USERS,
        max_epochs=MAX_EPOCHS,
        checkpoint_seconds=float(sys.argv[2]),
        ema_decay=0.9,
    )
