"""Array types of the public functions: what they take, NumPy or JAX; what they return is a JAX `Array`.

`ArrayLike` takes a shape from jaxtyping, `Float[ArrayLike, "*B P"]`, and is a plain union to a type checker.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

ArrayLike = jax.Array | np.ndarray
"""An array of JAX or NumPy; the functions convert, and check dtype and shape."""

IntArrayLike = Int[ArrayLike, "..."]
"""Integers of any shape and width."""
FloatArrayLike = Float[ArrayLike, "..."]
"""Floating-point numbers of any shape and width."""
BoolArrayLike = Bool[ArrayLike, "..."]
"""Truth values of any shape."""
