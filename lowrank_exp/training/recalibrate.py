"""Batch-norm statistics, estimated anew after a network's weights changed.

x_b  a layer's input in batch b, n_b its images;   E, Var over batch and positions, per channel, Var unbiased
as torch's
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank_exp.network.modes import kept_modes
from lowrank_exp.training.device import resolve
from lowrank_exp.training.generators import undisturbed
from lowrank_exp.training.probes.first_images import FirstImages


def recalibrate_(network: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], images: int, device: str = "auto") -> int:
    """Estimate the running mean and variance of every batch-norm layer anew, in place; returns their number.

        running mean = sum_b n_b E[x_b] / sum_b n_b,     running variance = sum_b n_b Var[x_b] / sum_b n_b

    over the first `images` images of the loader, the last batch cut to size. Batch norm runs in training
    mode, all else (dropout) in eval mode; no gradients. Where the loader's sampler has `set_epoch`, it is set
    to epoch 0, and a plain shuffling loader draws from a generator seeded with 0, so the same images come
    each time. Modes, momenta, device and the global generators are afterwards as they were; a layer the
    network does not use keeps its numbers.

    Args:
        network: any; layers without running statistics (`track_running_stats=False`) do not count.
        loader: training images and labels (labels are not looked at).
        images: how many images to use, at least 2; a few thousand are usually plenty.
        device: where to compute.

    Returns:
        The number of layers estimated anew; 0 where the network has no batch norm (then nothing is computed).

    Raises:
        ValueError: `images` below 2, or more than the loader gives (the old statistics are then put back).
    """
    if images < 2:
        raise ValueError(f"images is {images}; a variance needs at least 2, and an estimate some hundreds")
    if not (layers := estimated_layers(network)):
        return 0
    where = resolve(device)
    home = next(layers[0].buffers()).device
    before = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    seen = dict.fromkeys(layers, 0)

    def weigh(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """new = (1 - m) old + m batch with m = n_b / (images so far) is the running average over images."""
        seen[layer] += len(inputs[0])
        layer.momentum = len(inputs[0]) / seen[layer]

    done = False
    hooks = [layer.register_forward_pre_hook(weigh) for layer in layers]
    try:
        with kept_modes(network), undisturbed(where), torch.no_grad():
            network.eval().to(where)
            for layer in layers:
                layer.train()
                layer.reset_running_stats()
            for batch in FirstImages(loader, images):
                network(batch.to(where, non_blocking=True))
        done = True
    finally:
        for hook in hooks:
            hook.remove()
        network.to(home)
        for layer, buffers, momentum in zip(layers, before, momenta, strict=True):
            layer.momentum = momentum
            if not done or seen[layer] == 0:
                layer.load_state_dict(buffers, strict=False)
    return sum(count > 0 for count in seen.values())


def estimated_layers(network: nn.Module) -> list[_BatchNorm]:
    """The layers whose statistics `recalibrate_` estimates."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
