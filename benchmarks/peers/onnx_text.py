"""onnxruntime as a contender for text throughput; the requests are those of `seqrec_text.py`.

The model is exported from PyTorch and goes through onnxruntime's own optimizer for BERT, which fuses attention.
Runs in the environment of language.txt.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from onnxruntime.transformers import optimizer
from protocol import serve
from text_batches import SortedTexts


class Onnx:
    """An `InferenceSession` on the CPU in float32."""

    def prepare(self, directory: str, texts: str, threads: int) -> dict[str, Any]:
        self._folder = tempfile.TemporaryDirectory()
        path = f"{self._folder.name}/model.onnx"
        model = export(directory, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        heads, width = model.config.num_attention_heads, model.config.hidden_size
        fused = optimizer.optimize_model(path, model_type="bert", num_heads=heads, hidden_size=width, opt_level=1)
        fused.save_model_to_file(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def forward(token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            return session.run(None, {"token_ids": token_ids, "mask": mask})[0]

        self._texts = SortedTexts(directory, json.loads(Path(texts).read_text()), forward)
        self.encode, self.save = self._texts.encode, self._texts.save
        return {
            "version": f"onnxruntime {onnxruntime.__version__}",
            "tokens_per_batch": self._texts.tokens_per_batch,
            "fused": {name: number for name, number in fused.get_fused_operator_statistics().items() if number},
        }


def export(directory: str, path: str) -> Any:
    """The model's hidden states as ONNX; returns the PyTorch model."""
    model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=token_ids, attention_mask=mask).last_hidden_state

    example = torch.ones(2, 8, dtype=torch.long)
    axes = {name: {0: "batch", 1: "length"} for name in ("token_ids", "mask", "states")}
    torch.onnx.export(
        States(),
        (example, example),
        path,
        input_names=["token_ids", "mask"],
        output_names=["states"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    return model


if __name__ == "__main__":
    serve(Onnx())
