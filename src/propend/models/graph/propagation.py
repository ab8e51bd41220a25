"""Messages along the edges of a sparse graph, forward and backward, on whatever device torch has."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError, ModelError

__all__ = ["Edges", "normalised", "pairs_of", "part_edges", "torch_module"]

F32 = npt.NDArray[np.float32]


def torch_module() -> Any:
    """Return torch; raises ``MissingExtraError`` where it is not installed."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("networks on graphs", "deep") from None
    return torch


def normalised(table: Any) -> Any:
    """Return a non-negative sparse matrix divided by the square roots of its row and column sums (CSR).

    This is the symmetric normalisation of graph convolutions (Kipf & Welling, ICLR 2017); empty rows
    and columns stay empty.

    >>> import scipy.sparse as sp
    >>> normalised(sp.csr_array(np.array([[1.0, 3.0], [0.0, 0.0]]))).toarray().tolist()
    [[0.5, 0.8660253882408142], [0.0, 0.0]]
    """
    import scipy.sparse as sp

    csr: Any = sp.csr_array(table, dtype=np.float32)
    if csr.nnz and (csr.data < 0).any():
        raise ModelError("a graph's edges must not weigh less than 0; leave such edges out")
    roots = []
    for axis in (1, 0):
        total = np.asarray(csr.sum(axis=axis)).ravel()
        roots.append(1 / np.sqrt(np.where(total > 0, total, 1.0)))
    row = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    data = csr.data * roots[0][row] * roots[1][csr.indices]
    return sp.csr_array((data.astype(np.float32), csr.indices, csr.indptr), shape=csr.shape)


def part_edges(table: Any, share: float, rng: np.random.Generator) -> tuple[Any, Any]:
    """Part the edges into those of the training graph and those held back: some of each user with three or more."""
    import scipy.sparse as sp

    per_user = np.diff(table.indptr)
    row = np.repeat(np.arange(table.shape[0]), per_user)
    held = (rng.random(table.nnz) < share) & (per_user[row] >= 3)
    parts = []
    for chosen in (~held, held):
        cells = (table.data[chosen], (row[chosen], table.indices[chosen]))
        parts.append(sp.csr_array(cells, shape=table.shape, dtype=np.float32))
    return parts[0], parts[1]


def pairs_of(table: Any) -> npt.NDArray[np.int64]:
    """Return the edges of a CSR matrix as rows and columns, int64 [2, edges]."""
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    return np.stack([row, table.indices]).astype(np.int64)


class Edges:
    """A sparse matrix of edges, targets × sources, that carries vectors from sources to targets.

    The gradient goes back along the transpose, which is made once; both products are row-wise sums in
    a fixed order, so that the same numbers come out each time.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> edges = Edges(sp.csr_array(np.array([[0.5, 0.5, 0.0]], np.float32)))  # doctest: +SKIP
    >>> edges(torch_module().eye(3)).tolist()  # doctest: +SKIP
    [[0.5, 0.5, 0.0]]
    """

    def __init__(self, table: Any, device: str = "cpu") -> None:
        self.shape: tuple[int, int] = table.shape
        self._forward = _tensor(table.tocsr(), device)
        self._backward = _tensor(table.T.tocsr(), device)
        self._carry = _carrier()

    def __call__(self, vectors: Any) -> Any:
        """Return the sum of messages at each target: [targets, d] from [sources, d]."""
        return self._carry.apply(vectors, self._forward, self._backward)

    def back(self, vectors: Any) -> Any:
        """Return the sum of messages along the turned edges: [sources, d] from [targets, d]."""
        return self._carry.apply(vectors, self._backward, self._forward)


def _tensor(csr: Any, device: str) -> Any:
    torch = torch_module()
    csr.sort_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support.*")
        warnings.filterwarnings("ignore", message=".*Sparse invariant checks.*")
        return torch.sparse_csr_tensor(
            torch.from_numpy(csr.indptr.astype(np.int64)),
            torch.from_numpy(csr.indices.astype(np.int64)),
            torch.from_numpy(np.ascontiguousarray(csr.data, np.float32)),
            size=csr.shape,
            device=device,
        )


_CARRIERS: list[Any] = []


def _carrier() -> Any:
    """Return the differentiable sparse product, made once when torch is first there."""
    if not _CARRIERS:
        torch = torch_module()

        differentiable: Any = torch.autograd.Function

        class Carry(differentiable):
            @staticmethod
            def forward(ctx: Any, vectors: Any, there: Any, back: Any) -> Any:
                ctx.back = back
                return there @ vectors

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None]:
                return ctx.back @ gradient.contiguous(), None, None

        _CARRIERS.append(Carry)
    return _CARRIERS[0]
