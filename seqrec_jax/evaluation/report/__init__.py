"""From an evaluation's result to what a person reads: page, terminal, charts, verdict."""
