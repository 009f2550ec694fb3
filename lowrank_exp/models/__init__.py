"""The networks we compress: constructor functions that Hydra, a file or a user calls by name."""

from lowrank_exp.models.alexnet import alexnet as alexnet
from lowrank_exp.models.alexnet import alexnet_torchvision as alexnet_torchvision
from lowrank_exp.models.cifar_resnet import cifar_resnet as cifar_resnet
from lowrank_exp.models.clip import ZeroShot as ZeroShot
from lowrank_exp.models.clip import clip as clip
from lowrank_exp.models.constructor import network as network
from lowrank_exp.models.densenet import densenet as densenet
from lowrank_exp.models.hub import hub as hub
from lowrank_exp.models.lenet import lenet5 as lenet5
from lowrank_exp.models.lenet import lenet_300_100 as lenet_300_100
from lowrank_exp.models.numbers import not_finite as not_finite
from lowrank_exp.models.resnet import resnet as resnet
from lowrank_exp.models.spp10 import spp10 as spp10
from lowrank_exp.models.vanilla_cnn import vanilla_cnn as vanilla_cnn
from lowrank_exp.models.vgg import vgg as vgg
from lowrank_exp.models.weights import load_weights_ as load_weights_
from lowrank_exp.models.weights import read_state as read_state
from lowrank_exp.models.weights import weights_file as weights_file
from lowrank_exp.models.zeiler_fergus import zeiler_fergus as zeiler_fergus
from lowrank_exp.models.zoo import build as build
