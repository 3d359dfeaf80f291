"""Linear layers add a bias `[O]` to `[N, O]`, which the suite's strict ranks would refuse."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def ranks_are_promoted() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield
