"""PyTorch's cross entropy over all items, value and gradients: `python benchmarks/peers/torch_softmax.py --help`.

It needs torch; benchmarks/losses.py runs it in an environment that has it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from softmax_cost import main


def prepare(targets: int, items: int, width: int) -> Callable[[], float]:
    """The call on random vectors."""
    torch.manual_seed(0)

    def value_and_gradients(rows: torch.Tensor, table: torch.Tensor, wanted: torch.Tensor) -> float:
        rows, table = rows.detach().requires_grad_(), table.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(rows @ table.T, wanted)
        loss.backward()
        return loss.item()

    v, v_y = 0.3 * torch.randn(targets, width), 0.3 * torch.randn(items, width)
    wanted = torch.randint(items, (targets,))
    value_and_gradients(v[:8], v_y[:8], torch.arange(8))  # starts the threads
    return lambda: value_and_gradients(v, v_y, wanted)


if __name__ == "__main__":
    main(__doc__, prepare, loss="PyTorch cross_entropy", version=torch.__version__)
