"""Writes golden steps of LoRA and AdaLoRA from peft, which the tests do not install; rerun only to change the cases.

    python -m venv torch-env && torch-env/bin/pip install torch==2.13.0 peft==0.21.2 numpy
    torch-env/bin/python tests/golden/make_adapters.py

A network of two linear layers is trained on one batch. Each file holds the base, the batch and, for every step, the
loss before it and the adapters after it. peft and PyTorch are imported late, because pytest collects this file.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent
INPUTS, HIDDEN, OUTPUTS, BATCH = 6, 5, 4, 16
LORA_STEPS = 10
ADALORA: dict[str, Any] = {
    "init_r": 4,
    "target_r": 2,
    "tinit": 5,
    "tfinal": 8,
    "deltaT": 3,
    "beta1": 0.85,
    "beta2": 0.8,
    "orth_reg_weight": 0.3,
    "total_step": 30,
    "lora_alpha": 8,
}


def make_network() -> Any:
    """`outer(tanh(inner(x)))` that returns its mean squared error as a language model returns its loss."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(INPUTS, HIDDEN)
            self.outer = torch.nn.Linear(HIDDEN, OUTPUTS)

        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> SimpleNamespace:
            outputs = self.outer(torch.tanh(self.inner(inputs)))
            return SimpleNamespace(loss=((outputs - targets) ** 2).mean())

    return Network()


def adapters_of(network: Any) -> dict[str, np.ndarray]:
    """Copies of the adapters' parameters, under peft's names."""
    named = network.named_parameters()
    return {name: value.detach().numpy().copy() for name, value in named if "lora_" in name}


def record(name: str, config: Any, make_optimizer: Any, *, num_steps: int, allocate: bool) -> None:
    """Train and write `name.npz`."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(0)
    network = make_network()
    arrays = {key: value.detach().numpy().copy() for key, value in network.state_dict().items()}
    inputs, targets = torch.randn(BATCH, INPUTS), torch.randn(BATCH, OUTPUTS)
    adapted = get_peft_model(network, config).base_model
    if allocate:  # from 0.02 to 0.4, so that thirty steps move the singular values
        with torch.no_grad():
            for value in adapted.parameters():
                value.mul_(20.0 if value.requires_grad else 1.0)
    history, losses, masks = [adapters_of(adapted)], [], []
    optimizer = make_optimizer([value for value in adapted.parameters() if value.requires_grad])
    for step in range(1, num_steps + 1):
        loss = adapted(inputs, targets).loss
        loss.backward()
        optimizer.step()
        if allocate:
            adapted.update_and_allocate(step)
            pattern = adapted.peft_config["default"].rank_pattern or {}
            masks.append({key: np.array(mask) for key, mask in pattern.items()})
        optimizer.zero_grad()
        losses.append(loss.item())
        history.append(adapters_of(adapted))
    for key in history[0]:
        arrays[key] = np.stack([moment[key] for moment in history])
    if allocate:
        every = np.ones(ADALORA["init_r"], dtype=bool)
        for key in masks[-1]:
            arrays[f"mask.{key}"] = np.stack([mask.get(key, every) for mask in masks])
    losses = np.array(losses, dtype=np.float32)
    np.savez_compressed(FOLDER / f"{name}.npz", inputs=inputs.numpy(), targets=targets.numpy(), losses=losses, **arrays)


def main() -> None:
    import torch
    from peft import AdaLoraConfig, LoraConfig

    modules = ["inner", "outer"]
    optimizers = {
        "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.2),
        "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    }
    for name, make_optimizer in optimizers.items():
        lora = LoraConfig(
            r=2, lora_alpha=4, rank_pattern={"outer": 3}, alpha_pattern={"outer": 9}, target_modules=modules
        )
        record(f"lora_{name}", lora, make_optimizer, num_steps=LORA_STEPS, allocate=False)
        adalora = AdaLoraConfig(target_modules=modules, **ADALORA)
        record(f"adalora_{name}", adalora, make_optimizer, num_steps=ADALORA["total_step"], allocate=True)


if __name__ == "__main__":
    main()
