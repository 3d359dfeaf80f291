"""PyTorch's transformers as a contender for text throughput; the requests are those of `seqrec_text.py`.

Runs in the environment of language.txt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from protocol import serve
from text_batches import SortedTexts


class Transformers:
    """`AutoModel` in float32 with its default attention."""

    def prepare(self, directory: str, texts: str, threads: int) -> dict[str, Any]:
        torch.set_num_threads(threads)
        model = transformers.AutoModel.from_pretrained(directory).eval()

        def forward(token_ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                outputs = model(input_ids=torch.from_numpy(token_ids), attention_mask=torch.from_numpy(mask))
            return outputs.last_hidden_state.numpy()

        self._texts = SortedTexts(directory, json.loads(Path(texts).read_text()), forward)
        self.encode, self.save = self._texts.encode, self._texts.save
        version = f"transformers {transformers.__version__} with PyTorch {torch.__version__}"
        return {"version": version, "tokens_per_batch": self._texts.tokens_per_batch}


if __name__ == "__main__":
    serve(Transformers())
