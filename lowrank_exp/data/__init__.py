"""Image data sets as Lightning data modules over uint8 images: decoded once and kept in memory, or streamed from files.

Read `module.py` first: every data set is `ImageData` with a source of its own.
"""

from lowrank_exp.data.augment import crop_and_flip, cut_out_, draw_augmentation, draw_cutout, normalise
from lowrank_exp.data.batches import EpochBatches, ImageBatches, batch_loader
from lowrank_exp.data.digits import Digits
from lowrank_exp.data.fake import FakeData
from lowrank_exp.data.flowers102 import Flowers102
from lowrank_exp.data.image_folder import ImageFolder
from lowrank_exp.data.imagenet import ImageNet
from lowrank_exp.data.images import LabelledImages
from lowrank_exp.data.module import ImageData
from lowrank_exp.data.split import stratified_split
from lowrank_exp.data.svhn import SVHN
from lowrank_exp.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "Digits",
    "EpochBatches",
    "FakeData",
    "FashionMNIST",
    "Flowers102",
    "ImageBatches",
    "ImageData",
    "ImageFolder",
    "ImageNet",
    "LabelledImages",
    "batch_loader",
    "crop_and_flip",
    "cut_out_",
    "draw_augmentation",
    "draw_cutout",
    "normalise",
    "stratified_split",
]
