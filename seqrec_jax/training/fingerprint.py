"""The fingerprint of parameters, by which a file knows the checkpoint that it belongs to."""

from __future__ import annotations

import hashlib

import numpy as np

from seqrec_jax.training.adapters.paths import Params, flat_params


def params_fingerprint(params: Params) -> str:
    """SHA-256 of the paths, dtypes, shapes and values of parameters, in hexadecimal.

    >>> params_fingerprint({"bias": np.zeros(2, np.float32)})[:12]
    'd3dfbe601428'
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(flat_params(params).items()):
        if not isinstance(leaf, dict):
            array = np.asarray(leaf)
            digest.update(f"{path} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
