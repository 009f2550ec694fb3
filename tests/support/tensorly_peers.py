"""What TensorLy loses on the same tensor, relative to its norm."""

import tensorly
from tensorly.decomposition import parafac, partial_tucker

from support.layer_cases import relative


def cp_error(tensor, rank, sweeps=100):
    """Of the better of its two fits by alternating least squares, from singular vectors and from a random start."""
    with tensorly.backend_context("numpy"):
        fits = [
            parafac(tensor, rank, n_iter_max=sweeps, init=init, tol=1e-8, random_state=0) for init in ("svd", "random")
        ]
        return min(relative(tensorly.cp_to_tensor(fit), tensor) for fit in fits)


def tucker2_error(kernel, in_rank, out_rank, **options):
    """Of its orthogonal iteration along the first two modes of a kernel `(O, I, ...)`."""
    with tensorly.backend_context("numpy"):
        (core, factors), _ = partial_tucker(kernel, rank=[out_rank, in_rank], modes=[0, 1], init="svd", **options)
        return relative(tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1]), kernel)
