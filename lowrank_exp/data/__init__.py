"""Image data sets as Lightning data modules over uint8 tensors that are decoded once and kept in memory.

Read `module.py` first: every data set is `ImageData` with a source of its own.
"""

from lowrank_exp.data.augment import crop_and_flip, draw_augmentation, normalise
from lowrank_exp.data.batches import EpochBatches, ImageBatches, batch_loader
from lowrank_exp.data.digits import Digits
from lowrank_exp.data.image_folder import ImageFolder
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.split import stratified_split
from lowrank_exp.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Digits",
    "EpochBatches",
    "FashionMNIST",
    "ImageBatches",
    "ImageData",
    "ImageFolder",
    "LabelledImages",
    "batch_loader",
    "crop_and_flip",
    "draw_augmentation",
    "normalise",
    "stratified_split",
]
