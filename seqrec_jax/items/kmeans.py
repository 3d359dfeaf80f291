"""K-means on the device: k-means++ initialisation, Lloyd's iterations, empty clusters moved."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqrec_jax.errors import ShapeError
from seqrec_jax.types import ArrayLike

_ROWS_AT_A_TIME = 2**14  # bounds the memory of the distances of a large catalogue


class KMeans(NamedTuple):
    """Clusters of N vectors.

    Attributes:
      centroids: `[S, E]` float32, the means of the clusters.
      assignments: `[N]` int32 nearest centroid of each vector, the first of several.
      errors: `[N]` float32 squared distance to it.
    """

    centroids: Float[Array, "S E"]
    assignments: Int[Array, " N"]
    errors: Float[Array, " N"]


@partial(jax.jit, static_argnames=("num_clusters", "num_iterations"))
def kmeans(
    vectors: Float[ArrayLike, "N E"], *, num_clusters: int, num_iterations: int = 50, key: PRNGKeyArray
) -> KMeans:
    """Clusters with a small sum of squared distances to their means.

    The initial centroids are drawn by k-means++: each next one is a vector with probability proportional to its
    squared distance to the nearest centroid so far. A cluster that becomes empty moves to the vector farthest from
    its own centroid, the next empty one to the next such vector.

    Args:
      vectors: `[N, E]` float.
      num_clusters: S; with fewer than S different vectors, some centroids are equal and the later ones unused.
      num_iterations: largest number of iterations; they end when no assignment changes.
      key: PRNG key, consumed; the same key gives the same clusters.

    Returns:
      Centroids, assignments and errors.

    Raises:
      ShapeError: vectors that are not `[N, E]` with N of at least 1, or num_clusters or num_iterations below 1.

    Source:
      Lloyd (1982), Least squares quantization in PCM; Arthur and Vassilvitskii (2007), k-means++: The Advantages of
      Careful Seeding.

    >>> clusters = kmeans(jnp.array([[0.0], [1.0], [9.0], [11.0]]), num_clusters=2, key=jax.random.key(0))
    >>> jnp.sort(clusters.centroids[:, 0]), clusters.errors
    (Array([ 0.5, 10. ], dtype=float32), Array([0.25, 0.25, 1.  , 1.  ], dtype=float32))
    """
    vectors = jnp.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) < 1 or num_clusters < 1 or num_iterations < 1:
        raise ShapeError(
            "kmeans takes vectors [N, E], N at least 1, and num_clusters and num_iterations of at least 1, got "
            f"{vectors.shape}, {num_clusters} and {num_iterations}"
        )
    vectors = vectors.astype(jnp.float32)

    def changing(carry: tuple[Array, KMeans, Array]) -> Array:
        iteration, _, changed = carry
        return changed & (iteration < num_iterations)

    def improve(carry: tuple[Array, KMeans, Array]) -> tuple[Array, KMeans, Array]:
        iteration, old, _ = carry
        centroids = _means(vectors, old)
        new = KMeans(centroids, *nearest(vectors, centroids))
        return iteration + 1, new, jnp.any(new.assignments != old.assignments)

    centroids = _spread_vectors(vectors, num_clusters, key)
    start = KMeans(centroids, *nearest(vectors, centroids))
    return jax.lax.while_loop(changing, improve, (jnp.int32(0), start, jnp.bool_(True)))[1]


def nearest(
    vectors: Float[Array, "N E"], centroids: Float[Array, "S E"]
) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """The centroid nearest to each vector, the first of several, and the squared distance to it.

    Args:
      vectors: `[N, E]` float32.
      centroids: `[S, E]` float32.

    Returns:
      `[N]` int32 and `[N]` float32.

    >>> nearest(jnp.array([[1.0, 0.0]]), jnp.array([[9.0, 0.0], [1.0, 2.0]]))
    (Array([1], dtype=int32), Array([4.], dtype=float32))
    """
    squares = jnp.sum(jnp.square(centroids), axis=1)

    def of_one(vector: Array) -> tuple[Array, Array]:
        # the square of the vector itself is the same for all; half precision would confuse near centroids
        products = jnp.matmul(centroids, vector, precision=jax.lax.Precision.HIGHEST)
        best = jnp.argmin(squares - 2 * products).astype(jnp.int32)
        return best, jnp.sum(jnp.square(vector - centroids[best]))

    return jax.lax.map(of_one, vectors, batch_size=min(len(vectors), _ROWS_AT_A_TIME))


def _spread_vectors(vectors: Array, num_clusters: int, key: Array) -> Array:
    """`[S, E]` first centroids, by k-means++."""
    keys = jax.random.split(key, num_clusters)
    first = vectors[jax.random.randint(keys[0], (), 0, len(vectors))]
    centroids = jnp.zeros((num_clusters, vectors.shape[1]), jnp.float32).at[0].set(first)

    def distances(centroid: Array) -> Array:
        return jnp.sum(jnp.square(vectors - centroid[None]), axis=1)

    def add(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        centroids, errors = carry
        chosen = vectors[jax.random.categorical(keys[number], jnp.log(errors))]
        return centroids.at[number].set(chosen), jnp.minimum(errors, distances(chosen))

    return jax.lax.fori_loop(1, num_clusters, add, (centroids, distances(first)))[0]


def _means(vectors: Array, clusters: KMeans) -> Array:
    """`[S, E]` the mean of each cluster; for an empty one, a vector far from its centroid."""
    num_clusters = len(clusters.centroids)
    sums = jax.ops.segment_sum(vectors, clusters.assignments, num_clusters)
    counts = jax.ops.segment_sum(jnp.ones(len(vectors), jnp.float32), clusters.assignments, num_clusters)
    empty = counts == 0
    worst = jax.lax.top_k(clusters.errors, min(num_clusters, len(vectors)))[1]
    turns = jnp.minimum(jnp.cumsum(empty, dtype=jnp.int32) - 1, len(worst) - 1)
    return jnp.where(empty[:, None], vectors[worst[turns]], sums / jnp.maximum(counts, 1.0)[:, None])
