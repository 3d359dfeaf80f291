"""Writes golden vectors from PyTorch, which the tests do not install; rerun only to change the cases.

    python -m venv torch-env && torch-env/bin/pip install torch==2.13.0 numpy
    torch-env/bin/python tests/golden/make_golden.py

Made with Python 3.11 and the CPU build of PyTorch, which is imported late, because pytest collects this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent
BATCH, LENGTH, WIDTH, HEADS, HIDDEN, LAYERS = 3, 7, 8, 2, 12, 2


def randomised(module: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    """Every parameter random, biases and normalisation included, so that none can be mistaken for another."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def save(name: str, module: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """The parameters under PyTorch's names, the inputs, outputs, and the gradient of the sum of squares."""
    import torch

    (gradient,) = torch.autograd.grad((outputs**2).sum(), inputs)
    arrays = {key: value.detach().numpy() for key, value in module.state_dict().items()}
    arrays |= {"inputs": inputs.detach().numpy(), "outputs": outputs.detach().numpy()}
    np.savez(FOLDER / f"{name}.npz", gradient=gradient.numpy(), **arrays)


def main() -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, LENGTH, WIDTH, generator=generator).requires_grad_()
    for name, kind in (("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)):
        module = randomised(kind(WIDTH, WIDTH, num_layers=LAYERS, batch_first=True), generator)
        save(name, module, inputs, module(inputs)[0])
    mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
    for norm_first, activation in ((True, "gelu"), (True, "relu"), (False, "gelu")):
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, activation=activation, batch_first=True, norm_first=norm_first
        )
        last_norm = torch.nn.LayerNorm(WIDTH) if norm_first else None
        module = torch.nn.TransformerEncoder(layer, LAYERS, norm=last_norm, enable_nested_tensor=False)
        randomised(module, generator)
        outputs = module(inputs, mask=mask, is_causal=True)
        save(f"transformer_{'pre' if norm_first else 'post'}_{activation}", module, inputs, outputs)


if __name__ == "__main__":
    main()
