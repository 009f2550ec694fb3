"""SVD form: layers that are trained as U diag(s) V, the way into them and the way out to plain small layers."""

from lowrank_exp.svd_form.convert import to_svd_
from lowrank_exp.svd_form.layers import (
    SVDConv1d,
    SVDConv2d,
    SVDConv3d,
    SVDConvTranspose1d,
    SVDConvTranspose2d,
    SVDConvTranspose3d,
    SVDForm,
    SVDLinear,
)
from lowrank_exp.svd_form.profile import dense_copy, forms_of, profile_svd
from lowrank_exp.svd_form.spectrum import sorted_svd, spectrum
from lowrank_exp.svd_form.truncate import truncate_

__all__ = [
    "SVDConv1d",
    "SVDConv2d",
    "SVDConv3d",
    "SVDConvTranspose1d",
    "SVDConvTranspose2d",
    "SVDConvTranspose3d",
    "SVDForm",
    "SVDLinear",
    "dense_copy",
    "forms_of",
    "profile_svd",
    "sorted_svd",
    "spectrum",
    "to_svd_",
    "truncate_",
]
