"""The networks we compress: constructor functions that Hydra, a file or a user calls by name."""

from lowrank_exp.models.cifar_resnet import cifar_resnet as cifar_resnet
from lowrank_exp.models.constructor import network as network
from lowrank_exp.models.lenet import lenet5 as lenet5
from lowrank_exp.models.weights import load_weights_ as load_weights_
from lowrank_exp.models.weights import read_state as read_state
from lowrank_exp.models.zoo import build as build
