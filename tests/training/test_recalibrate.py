import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.training import recalibrate_


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.Dropout(0.5),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
    )


def loader(count: int = 40, batch_size: int = 8, **options) -> DataLoader:
    draw = torch.Generator().manual_seed(1)
    images = 2 + torch.randn(count, 2, 8, 8, generator=draw)
    tensors = TensorDataset(images, torch.zeros(count, dtype=torch.int64))
    return DataLoader(tensors, batch_size=batch_size, **options)


def convolved(net: nn.Sequential, images: Tensor) -> np.ndarray:
    """What the first batch norm sees, (images, channels, positions), float64."""
    with torch.no_grad():
        return net[0](images).flatten(2).double().numpy()


def assert_statistics(layer: nn.Module, mean: np.ndarray, variance: np.ndarray) -> None:
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), variance, rtol=1e-5)


def test_one_batch_gives_its_own_mean_and_variance():
    net, data = network(), loader()
    assert recalibrate_(net, data, images=8, device="cpu") == 2
    seen = convolved(net, data.dataset.tensors[0][:8])
    assert_statistics(net[2], seen.mean((0, 2)), seen.transpose(1, 0, 2).reshape(3, -1).var(1, ddof=1))


def test_the_second_layer_sees_the_first_ones_batch_statistics():
    net, data = network(), loader()
    recalibrate_(net, data, images=8, device="cpu")
    x = convolved(net, data.dataset.tensors[0][:8]).reshape(8, 3, 6, 6)
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    normal = torch.from_numpy(np.maximum((x - mean) / np.sqrt(var + net[2].eps), 0)).float()
    with torch.no_grad():
        seen = net[4](normal).double().numpy().transpose(1, 0, 2, 3).reshape(4, -1)
    assert_statistics(net[5], seen.mean(1), seen.var(1, ddof=1))


def test_batches_count_by_their_images():
    """20 images in batches of 8: 8, 8 and 4."""
    net, data = network(), loader()
    recalibrate_(net, data, images=20, device="cpu")
    seen = convolved(net, data.dataset.tensors[0][:20])
    batches = [seen[0:8], seen[8:16], seen[16:20]]
    variances = [batch.transpose(1, 0, 2).reshape(3, -1).var(1, ddof=1) for batch in batches]
    variance = np.average(variances, axis=0, weights=[8, 8, 4])
    assert_statistics(net[2], seen.mean((0, 2)), variance)


def test_equal_batches_give_torchs_cumulative_average():
    ours, theirs = network(), network()
    recalibrate_(ours, loader(), images=40, device="cpu")
    theirs.eval()
    for layer in (theirs[2], theirs[5]):
        layer.train()
        layer.momentum = None
        layer.reset_running_stats()
    with torch.no_grad():
        for images, _ in loader():
            theirs(images)
    for index in (2, 5):
        assert_statistics(ours[index], theirs[index].running_mean.numpy(), theirs[index].running_var.numpy())
        assert ours[index].num_batches_tracked == 5


def test_all_else_is_as_before():
    net = network()
    net[2].eval()
    weights = {name: value.clone() for name, value in net.named_parameters()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    recalibrate_(net, loader(shuffle=True), images=16, device="cpu")
    assert torch.equal(torch.rand(2), expected)
    assert [layer.momentum for layer in (net[2], net[5])] == [0.1, None]
    assert [module.training for module in net.modules()] == [True, True, True, False, True, True, True]
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not net[2]._forward_pre_hooks


def test_a_shuffling_loader_gives_the_same_images_each_time():
    first, second = network(), network()
    torch.manual_seed(1)
    recalibrate_(first, loader(shuffle=True), images=16, device="cpu")
    torch.manual_seed(2)
    recalibrate_(second, loader(shuffle=True), images=16, device="cpu")
    assert torch.equal(first[2].running_mean, second[2].running_mean)
    assert not torch.equal(first[2].running_mean, torch.zeros(3))


def test_the_sampler_is_set_to_epoch_zero():
    class Shifted(torch.utils.data.Sampler):
        epoch = 3

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self):
            return iter(range(8 * self.epoch, 40))

        def __len__(self) -> int:
            return 40

    net, plain = network(), network()
    recalibrate_(net, loader(sampler=Shifted()), images=8, device="cpu")
    recalibrate_(plain, loader(), images=8, device="cpu")
    assert torch.equal(net[2].running_mean, plain[2].running_mean)


def test_a_layer_used_twice_and_one_not_used():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)
            self.idle = nn.BatchNorm2d(2)
            self.idle.running_mean.fill_(7.0)

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x)
            return self.norm(3 * x + 1)

    net, data = Twice(), loader()
    assert recalibrate_(net, data, images=16, device="cpu") == 1
    x = data.dataset.tensors[0][:16].double().numpy()
    mean = x.mean((0, 2, 3))
    np.testing.assert_allclose(net.norm.running_mean.numpy(), (mean + 3 * mean + 1) / 2, rtol=1e-5)
    assert torch.equal(net.idle.running_mean, torch.full((2,), 7.0))


def test_nothing_to_do_without_batch_norm():
    without = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))
    assert recalibrate_(without, loader(), images=8, device="cpu") == 0


@pytest.mark.parametrize(("images", "message"), [(1, "images is 1"), (41, "the loader gives 40 per pass")])
def test_wrong_number_of_images(images, message):
    net = network()
    net[2].running_mean.fill_(5.0)
    with pytest.raises(ValueError, match=message):
        recalibrate_(net, loader(), images=images, device="cpu")
    assert torch.equal(net[2].running_mean, torch.full((3,), 5.0))
    assert torch.equal(net[5].running_var, torch.ones(4))
    assert net[2].momentum == 0.1
    assert net[0].training
