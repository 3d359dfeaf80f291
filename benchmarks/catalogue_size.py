"""What a training step costs as the catalogue grows: `python benchmarks/catalogue_size.py`, about ten minutes.

SASRec, D = 64, 2 blocks, 32 rows of 50 random events, with the softmax over all items, and with 4,096 negatives shared
by the batch while the optimizer changes all rows of the id embeddings or only those that a step reads
(`training.optimizer.rows`). The contenders of a catalogue alternate, in an order drawn anew each round; medians. Writes
benchmarks/results/catalogue_size.json.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from peers.contenders import alternate
from records import circumstances, write_rows
from synthetic import SyntheticTraining

from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.training.config import LossConfig, OptimizerConfig, TrainingConfig

RESULTS = Path("benchmarks/results/catalogue_size.json")
CATALOGUES, ROWS, ROUNDS, STEPS = (10_000, 100_000, 1_000_000), 32, 5, 5
ENCODER = EncoderConfig(kind="sasrec", width=64, max_length=50)
SAMPLED = LossConfig(kind="sampled_softmax", num_negatives=4096, negatives_per="batch")
CONTENDERS = {
    "softmax": TrainingConfig(batch_size=ROWS),
    "4,096 negatives, all rows": TrainingConfig(batch_size=ROWS, loss=SAMPLED),
    "4,096 negatives, rows read": TrainingConfig(batch_size=ROWS, loss=SAMPLED, optimizer=OptimizerConfig(rows="read")),
}


def main() -> None:
    """Time the contenders on every catalogue."""
    about = circumstances("python benchmarks/catalogue_size.py")
    for num_items in CATALOGUES:
        contenders = {
            name: SyntheticTraining(config, encoder=ENCODER, num_items=num_items, steps=STEPS)
            for name, config in CONTENDERS.items()
        }
        for contender in contenders.values():
            contender.turn()  # compiles
        replies = alternate({name: contender.turn for name, contender in contenders.items()}, rounds=ROUNDS)
        rows = []
        for name, contender in contenders.items():
            seconds, temporary = statistics.median(r["seconds"] for r in replies[name]), contender.temporary_bytes()
            rows.append(
                {
                    "items": num_items,
                    "configuration": name,
                    "model": "sasrec",
                    "targets": ROWS * ENCODER.max_length,
                    "seconds": round(seconds, 5),
                    "temporary_bytes": temporary,
                    **about,
                }
            )
            line = f"{num_items:>9,} items  {seconds * 1e3:9.1f} ms a step  {temporary / 1e6:8.1f} MB temporary  {name}"
            print(line, flush=True)
        write_rows(RESULTS, rows, keys=("items", "configuration"))


if __name__ == "__main__":
    main()
