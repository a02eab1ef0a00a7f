"""The sparse random projection that anomalib measures distances in: its draws from both global generators, our code."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Binomial

from patchcore_fast.kernels.surroundings import undisturbed


class NotFittedError(ValueError, AttributeError):
    """`transform` before `fit`."""


class SparseRandomProjection:
    """Very sparse random projection (Li, Hastie and Church, KDD 2006) with the draws of anomalib's class.

    An entry is 0 but with probability 1 / sqrt(D), then +-s, s = D^(1/4) / sqrt(n_components). torch's CPU generator
    gives each row's count of entries and their signs, NumPy's global generator their columns (scikit-learn's
    `sample_without_replacement`), row by row.

    Parameters
    ----------
    eps : distortion in (0, 1), from which the Johnson-Lindenstrauss lemma gives the number of components.
    random_state : of the columns; None: NumPy's global generator; an integer: the same generator anew for each row.

    Attributes
    ----------
    n_components : rows of the matrix, after `fit`.
    sparse_random_matrix : [n_components, D] float32, dense, on the device of the embedding, after `fit`.
    """

    n_components: int
    sparse_random_matrix: Tensor

    def __init__(self, eps: float = 0.1, random_state: int | None = None) -> None:
        self.eps = eps
        self.random_state = random_state

    @undisturbed
    def fit(self, embedding: Tensor) -> SparseRandomProjection:
        """Draw the matrix for an [N, D] embedding; only its shape and device matter.

        Raises
        ------
        ValueError : not 2-D, or no rows or columns.
        """
        if embedding.ndim != 2 or embedding.numel() == 0:
            raise ValueError(
                f"SparseRandomProjection.fit: embedding must be 2-D [N, D] with rows and columns, "
                f"got shape {tuple(embedding.shape)}"
            )
        n, d = embedding.shape
        self.n_components = int(4 * np.log(n) / (self.eps**2 / 2 - self.eps**3 / 3))
        self.sparse_random_matrix = self._draw(d).to(embedding.device)
        return self

    def _draw(self, d: int) -> Tensor:  # -> [n_components, d]
        rows = self.n_components
        if rows == 0:  # a single sample
            return torch.zeros((0, d), dtype=torch.float32)
        sign = Binomial(1, torch.tensor(0.5))
        if d == 1:  # every entry is there: all signs in one draw
            return 1 / np.sqrt(rows) * (sign.sample(torch.Size((rows, 1))) * 2 - 1)
        from sklearn.utils.random import sample_without_replacement

        density = 1 / np.sqrt(d)
        count = Binomial(d, torch.tensor(float(density)))
        matrix = torch.zeros((rows, d), dtype=torch.float32)
        for row in matrix:
            # The order of the three draws is the peer's: equal seeds give its matrix, bit for bit.
            entries = int(count.sample())
            columns = sample_without_replacement(d, entries, random_state=self.random_state)
            where = torch.as_tensor(columns, dtype=torch.int64, device=row.device)
            row[where] = (sign.sample(where.shape) * 2 - 1).to(row.dtype)
        matrix *= np.sqrt(1 / density) / np.sqrt(rows)
        return matrix

    @undisturbed
    def transform(self, embedding: Tensor) -> Tensor:
        """[N, D] -> [N, n_components] in the embedding's dtype: the peer's one matrix product, so equal bit for bit.

        Raises
        ------
        NotFittedError : before `fit`.
        """
        if not hasattr(self, "sparse_random_matrix"):
            raise NotFittedError("`fit()` has not been called on SparseRandomProjection yet.")
        return embedding @ self.sparse_random_matrix.T.to(embedding.dtype)

    def fit_transform(self, embedding: Tensor) -> Tensor:
        """`fit`, then `transform`."""
        return self.fit(embedding).transform(embedding)
