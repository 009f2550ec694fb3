"""Decompositions: ways to write one layer's weight as a product of thinner layers, one file each."""

from lowrank_exp.decomposition.base import Decomposition, Rank
from lowrank_exp.decomposition.biclustering import Biclustering
from lowrank_exp.decomposition.channel_svd import ChannelSVD
from lowrank_exp.decomposition.choice import Decompositions, decomposition_named
from lowrank_exp.decomposition.cp import CP
from lowrank_exp.decomposition.grouped_channel_svd import GroupedChannelSVD
from lowrank_exp.decomposition.jaderberg_scheme1 import JaderbergScheme1
from lowrank_exp.decomposition.linear_svd import LinearSVD
from lowrank_exp.decomposition.monochromatic import Monochromatic
from lowrank_exp.decomposition.product_quantization import ProductQuantization
from lowrank_exp.decomposition.recompose import composed, recompose
from lowrank_exp.decomposition.refusal import refusals
from lowrank_exp.decomposition.slice_wise_svd import SliceWiseSVD
from lowrank_exp.decomposition.spatial_svd import SpatialSVD
from lowrank_exp.decomposition.svd import SVD, SVDDecomposition
from lowrank_exp.decomposition.tensor_train import TensorTrain
from lowrank_exp.decomposition.tucker import Tucker1, Tucker2
from lowrank_exp.layers.reorder import Reorder

named = decomposition_named  # its former name

__all__ = [
    "CP",
    "SVD",
    "Biclustering",
    "ChannelSVD",
    "Decomposition",
    "Decompositions",
    "GroupedChannelSVD",
    "JaderbergScheme1",
    "LinearSVD",
    "Monochromatic",
    "ProductQuantization",
    "Rank",
    "Reorder",
    "SVDDecomposition",
    "SliceWiseSVD",
    "SpatialSVD",
    "TensorTrain",
    "Tucker1",
    "Tucker2",
    "composed",
    "decomposition_named",
    "named",
    "recompose",
    "refusals",
]
