"""Writes tiny language models and what PyTorch makes of them; rerun only to change the cases.

    python -m venv torch-env && torch-env/bin/pip install torch==2.13.0 transformers==5.24.0 numpy
    torch-env/bin/python tests/golden/make_language.py [directory of all-MiniLM-L6-v2]

Each family gets a directory in the Hugging Face layout with random weights, and `expected.npz`: token ids, mask, hidden
states, and for some families the gradient of a weighted sum of them by one kernel. With MiniLM's directory also
sentence vectors of a few texts. Torch and transformers are imported late, because pytest collects this file.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "language"
WORDS = "red blue shirt shoe drill cordless lamp led oak table chair door ##s ##ing 18 v in x - , .".split()  # noqa: SIM905
TEXTS = [
    "Red shirts, blue shoe",
    "cordless drill 18 v",
    "led lamp in oak",
    "drilling - tables x chairs, doors . lamp in red shoe",
    "Ωmega lamp",
]
MINILM_TEXTS = [
    "Cordless drill 18V with two batteries",
    "LED ceiling lamp, warm white",
    "oak dining table 180 x 90 cm",
    "Schwarzer Wollmantel für Damen",
    "赤い靴",
    "a",
    "garden hose 1/2 in. x 50 ft. heavy duty, kink free, brass fittings — made in U.S.A. 5-year warranty",
    "long " * 400,
]
BATCH, LENGTH = 3, 9
LENGTHS = (9, 6, 2)


def configurations() -> dict[str, Any]:
    import transformers as hf

    small = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = small | {"intermediate_size": 24, "max_position_embeddings": 24}
    decoder = small | {"intermediate_size": 24, "num_key_value_heads": 2, "max_position_embeddings": 64}
    llama3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    return {
        "bert": hf.BertConfig(**bert),
        "roberta": hf.RobertaConfig(**bert, pad_token_id=1),
        "gpt2": hf.GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=4, n_positions=24),
        "llama": hf.LlamaConfig(**decoder, head_dim=4, rope_parameters=llama3),
        "qwen2": hf.Qwen2Config(**decoder, rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
        "qwen3": hf.Qwen3Config(**decoder, head_dim=6, rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
    }


def tokenizer() -> Any:
    """WordPiece with BERT's special tokens, over a vocabulary of 60."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    names += [f"word{number}" for number in range(60 - len(names))]
    vocabulary = {name: number for number, name in enumerate(names)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return made


def write_family(name: str, config: Any, generator: Any) -> None:
    import torch
    import transformers as hf

    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    # GPT-2 is saved as most files of it are, with its language head, and so with a prefix
    make = hf.AutoModelForCausalLM if name == "gpt2" else hf.AutoModel
    whole = make.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    whole.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = whole.transformer if name == "gpt2" else whole
    token_ids = torch.randint(2, 60, (BATCH, LENGTH), generator=generator)
    mask = torch.arange(LENGTH)[None] < torch.tensor(LENGTHS)[:, None]
    # RoBERTa finds its positions by the id of padding
    token_ids = torch.where(mask, token_ids, torch.tensor(config.pad_token_id or 0))
    states = model(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state
    arrays = {"token_ids": token_ids.int(), "mask": mask, "hidden_states": states}
    kernels = {"bert": "encoder.layer.0.attention.self.query.weight", "qwen3": "layers.0.self_attn.k_proj.weight"}
    weights = torch.randn(states.shape, generator=generator) * mask[..., None]
    if name in kernels:
        parameter = dict(model.named_parameters())[kernels[name]]
        (gradient,) = torch.autograd.grad((weights * states).sum(), parameter)
        arrays |= {"weights": weights, "gradient": gradient.T}
    np.savez_compressed(folder / "expected.npz", **{key: value.detach().numpy() for key, value in arrays.items()})


def write_tokens() -> None:
    """The tokenizer, beside BERT, with the ids that transformers makes of the texts."""
    import transformers as hf

    path = FOLDER / "bert" / "tokenizer.json"
    tokenizer().save(str(path))
    fast = hf.PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="[PAD]")
    ids = fast(TEXTS, truncation=True, max_length=8)["input_ids"]
    (FOLDER / "bert" / "tokens.json").write_text(json.dumps({"texts": TEXTS, "max_length": 8, "ids": ids}, indent=1))


def write_minilm(directory: str) -> None:
    """Sentence vectors by the model card's own recipe: mean over tokens, then unit length."""
    import torch
    import transformers as hf

    fast = hf.AutoTokenizer.from_pretrained(directory)
    model = hf.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    encoded = fast(MINILM_TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"][..., None].float()
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    lengths = encoded["attention_mask"].sum(1).tolist()
    ids = [row[:length] for row, length in zip(encoded["input_ids"].tolist(), lengths, strict=True)]
    np.savez_compressed(FOLDER / "minilm.npz", vectors=vectors.numpy())
    (FOLDER / "minilm.json").write_text(json.dumps({"texts": MINILM_TEXTS, "ids": ids}, ensure_ascii=False))


def main() -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, config in configurations().items():
        write_family(name, config, generator)
    write_tokens()
    if len(sys.argv) > 1:
        write_minilm(sys.argv[1])


if __name__ == "__main__":
    main()
