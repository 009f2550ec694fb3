"""Decompositions: ways to write one layer's weight as a product of thinner layers, one file each."""

from lowrank_exp.decomposition.base import Decomposition
from lowrank_exp.decomposition.channel_svd import ChannelSVD
from lowrank_exp.decomposition.choice import Decompositions, named
from lowrank_exp.decomposition.linear_svd import LinearSVD
from lowrank_exp.decomposition.refusal import refusals
from lowrank_exp.decomposition.spatial_svd import SpatialSVD
from lowrank_exp.decomposition.svd import SVD, SVDDecomposition

__all__ = [
    "SVD",
    "ChannelSVD",
    "Decomposition",
    "Decompositions",
    "LinearSVD",
    "SVDDecomposition",
    "SpatialSVD",
    "named",
    "refusals",
]
