"""The one door: whole networks, every decomposition, symmetric and asymmetric."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, SpatialSVD, recompose
from lowrank_exp.decomposition.biclustering import Biclustering
from lowrank_exp.decomposition.cp import CP
from lowrank_exp.decomposition.grouped_channel_svd import GroupedChannelSVD
from lowrank_exp.decomposition.jaderberg_scheme1 import JaderbergScheme1
from lowrank_exp.decomposition.monochromatic import Monochromatic
from lowrank_exp.decomposition.product_quantization import ProductQuantization
from lowrank_exp.decomposition.slice_wise_svd import SliceWiseSVD
from lowrank_exp.decomposition.tensor_train import TensorTrain
from lowrank_exp.decomposition.tucker import Tucker1, Tucker2
from lowrank_exp.models.cifar_resnet import cifar_resnet
from lowrank_exp.reconstruct import CODE, FITS, adds_bias, check_fit, fit_to_data, with_bias
from support.cells import cells
from support.layer_cases import filled, images, relative


def smooth(count, channels=3, side=8, seed=0):
    """Images whose neighbouring pixels are alike."""
    return F.avg_pool2d(images((count, channels, 2 * side, 2 * side), seed), 3, stride=2, padding=1) + 0.2


def network(bias=True):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(8, 10, 3, stride=2, groups=2, bias=bias),
        nn.BatchNorm2d(10),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(90, 7, bias=bias),
    ).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=draw, dtype=torch.float64))
        net[3].running_var.abs_().add_(0.5)
        net[3].weight.add_(1)
    return net


def replaced(net, chains):
    net = copy.deepcopy(net)
    for name, chain in chains.items():
        net.set_submodule(name, chain)
    return net


def outputs(net, x, name):
    """What the layer called `name` gives in a pass of `x`."""
    found = []
    hook = net.get_submodule(name).register_forward_hook(lambda _, __, y: found.append(y.clone()))
    with torch.no_grad():
        net.eval()(x)
    hook.remove()
    return torch.cat(found)


def inputs(net, x, name):
    found = []
    hook = net.get_submodule(name).register_forward_hook(lambda _, args, __: found.append(args[0].clone()))
    with torch.no_grad():
        net.eval()(x)
    hook.remove()
    return torch.cat(found)


def miss(net, x, name, chain, then=lambda y: y):
    """Squared error of the chain's answers to the layer's inputs."""
    with torch.no_grad():
        got = chain(inputs(net, x, name))
        return float(((then(got) - then(outputs(net, x, name))) ** 2).sum())


def behind(net):
    """What gets the answers of each layer."""
    norm = net[3].eval()
    return {"0": F.relu, "2": lambda y: F.relu(norm(y)), "6": lambda y: y}


WANTED = {"0": (ChannelSVD(), 3), "2": (ChannelSVD(), 2), "6": (LinearSVD(), 3)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fit", FITS)
def test_chains_fit_the_data_better_than_the_weights_alone(fit, bias):
    net, x = network(bias), smooth(40)
    chains = fit_to_data(net, WANTED, [x[:13], x[13:]], fit)
    for name, (kind, rank) in WANTED.items():
        layer = net.get_submodule(name)
        plain, then = kind.factorize(layer, rank), behind(net)[name] if fit == "relu" else lambda y: y
        assert miss(net, x, name, chains[name], then) < 0.999 * miss(net, x, name, plain, then)
        expected = kind.skeleton(with_bias(layer) if fit != "whitened" else layer, rank)
        assert str(chains[name]) == str(expected)
        assert {p.dtype for p in chains[name].parameters()} == {torch.float64}


@pytest.mark.parametrize("fit", ["whitened", "response"])
def test_error_is_the_tail_that_numpy_finds(fit):
    net, x = network(), smooth(40)
    chains = fit_to_data(net, WANTED, x.split(7), fit)
    for name, (_, rank) in WANTED.items():
        layer, y = net.get_submodule(name), outputs(net, x, name)
        y = y.numpy() if y.dim() == 2 else y.flatten(2).transpose(1, 2).flatten(0, 1).numpy()
        y = y - (layer.bias.detach().numpy() if fit == "whitened" else y.mean(0))
        groups = np.split(y, getattr(layer, "groups", 1), axis=1)
        tail = sum((np.linalg.svd(one, compute_uv=False)[rank:] ** 2).sum() for one in groups)
        np.testing.assert_allclose(miss(net, x, name, chains[name]), tail, rtol=1e-7)


def test_behind_the_relu_it_is_better_than_the_linear_one():
    net, x = network(), smooth(60)
    linear, found = (fit_to_data(net, WANTED, [x], fit, positions=64) for fit in ("response", "relu"))
    for name in ("0", "2"):
        then = behind(net)[name]
        assert miss(net, x, name, found[name], then) < 0.98 * miss(net, x, name, linear[name], then)
    # Nothing rectifies the last layer: there it is the linear one.
    for one, other in zip(found["6"].parameters(), linear["6"].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("fit", ["response", "relu"])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_full_rank_changes_nothing(fit, asymmetric):
    net, x = network(bias=False), smooth(40)
    full = {"0": (ChannelSVD(), 8), "2": (ChannelSVD(), 5), "6": (LinearSVD(), 7)}
    small = replaced(net, fit_to_data(net, full, [x], fit, asymmetric))
    with torch.no_grad():
        assert relative(small.eval()(x), net.eval()(x)) <= 1e-8


def test_batch_sizes_labels_and_loaders_give_the_same_chains():
    net, x = network(), smooth(40)
    labelled = DataLoader(TensorDataset(x, torch.zeros(40)), batch_size=9)
    for fit in FITS:
        wanted = fit_to_data(net, WANTED, [x], fit, images=30)
        for batches in (x.split(1), [(x[:20], None), [x[20:], None]], labelled):
            got = fit_to_data(net, WANTED, batches, fit, images=30)
            for name in WANTED:
                for one, other in zip(got[name].parameters(), wanted[name].parameters(), strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_memory_decides_the_number_of_passes_only():
    net, x = network(), smooth(12)

    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    for memory, passes in ((2**20, 1), (8 * 8 * 8 + 1, 3)):
        batches = Counted([x])
        chains = fit_to_data(net, WANTED, batches, "response", memory=memory)
        assert batches.passes == passes + 1  # one batch to look at the calls
        if memory == 2**20:
            wanted = chains
    for name in WANTED:
        for one, other in zip(chains[name].parameters(), wanted[name].parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("fit", FITS)
def test_asymmetric_is_symmetric_where_nothing_before_was_compressed(fit):
    net, x = network(), smooth(40)
    for name in ("0", "6"):
        wanted = {name: WANTED[name]}
        symmetric, asymmetric = (fit_to_data(net, wanted, [x[:25], x[25:]], fit, one)[name] for one in (False, True))
        with torch.no_grad():
            seen = inputs(net, x, name)
            assert relative(asymmetric(seen), symmetric(seen)) <= 1e-6


@pytest.mark.parametrize("fit", FITS)
def test_asymmetric_is_better_behind_compressed_layers(fit):
    net, x = network(), smooth(80)
    errors = {}
    for asymmetric in (False, True):
        small = replaced(net, fit_to_data(net, WANTED, [x], fit, asymmetric, positions=64))
        then = behind(net) if fit == "relu" else dict.fromkeys(WANTED, lambda y: y)
        pairs = {name: [then[name](outputs(one, x, name)) for one in (small, net)] for name in WANTED}
        errors[asymmetric] = {name: ((one - other) ** 2).sum().item() for name, (one, other) in pairs.items()}
    np.testing.assert_allclose(errors[True]["0"], errors[False]["0"], rtol=1e-6)
    assert errors[True]["2"] < 0.99 * errors[False]["2"]
    assert errors[True]["6"] < 0.98 * errors[False]["6"]


def test_asymmetric_order_is_that_of_the_forward_pass():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = filled(nn.Linear(6, 5), 1), filled(nn.Linear(8, 6), 2)

        def forward(self, x):
            return self.last(self.first(x).relu())

    net, x = Backwards(), images((100, 8))
    wanted = {"last": (LinearSVD(), 2), "first": (LinearSVD(), 2)}
    chains = fit_to_data(net, wanted, [x], "response", asymmetric=True)
    assert list(chains) == ["last", "first"]
    with torch.no_grad():
        hat, y = chains["first"](x).relu().numpy(), net(x).numpy()
        got = chains["last"](torch.from_numpy(hat)).numpy()
    # The paper's: M acts on the dense layer's answers to the compressed network's inputs.
    y_hat = hat @ net.last.weight.detach().numpy().T
    centred, seen = y - y.mean(0), y_hat - y_hat.mean(0)
    fitted = seen @ np.linalg.lstsq(seen, centred, rcond=None)[0]
    tail = (np.linalg.svd(fitted, compute_uv=False)[2:] ** 2).sum()
    np.testing.assert_allclose(((y - got) ** 2).sum(), ((centred - fitted) ** 2).sum() + tail, rtol=1e-8)


PLAIN, GROUPED = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, (3, 2), groups=2, stride=(2, 1), bias=False)
LINE = nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular")
CHAINS = {
    "spatial_svd": (SpatialSVD(), PLAIN, 4),
    "spatial_svd, horizontal first": (SpatialSVD(order="horizontal_first"), GROUPED, 2),
    "spatial_svd, 1-D": (SpatialSVD(), LINE, 3),
    "channel_svd, pointwise first": (ChannelSVD(order="pointwise_first"), PLAIN, 2),
    "grouped_channel_svd": (GroupedChannelSVD(groups=2), PLAIN, 2),
    "slice_wise_svd": (SliceWiseSVD(), PLAIN, 1),
    "jaderberg_scheme1": (JaderbergScheme1(), PLAIN, 2),
    "tucker2": (Tucker2(), PLAIN, (2, 3)),
    "tucker2, groups": (Tucker2(), GROUPED, (1, 2)),
    "tucker1, in": (Tucker1(mode="in"), PLAIN, 2),
    "tucker1, out": (Tucker1(mode="out"), PLAIN, 3),
    "cp": (CP(), PLAIN, 5),
    "cp, groups": (CP(), GROUPED, 2),
    "cp, merged, 1-D": (CP(spatial="merged"), LINE, 3),
    "tensor_train": (TensorTrain(), PLAIN, (2, 3, 3)),
    "monochromatic": (Monochromatic(restarts=1), PLAIN, 2),
    "biclustering, outer": (Biclustering(restarts=1), PLAIN, 1),
    "biclustering, svd": (Biclustering(inner="svd", restarts=1), PLAIN, (1, 1)),
}


@cells("asymmetric", [False, True])
@cells(("kind", "layer", "rank"), CHAINS.values(), ids=CHAINS.keys())
def test_other_chains_are_better_on_the_data_and_keep_shape_and_bias(kind, layer, rank, asymmetric):
    layer = filled(layer)
    net = nn.Sequential(layer, nn.Flatten())
    x = smooth(30, channels=4).relu()
    x = x.flatten(2)[:, :, :20] if isinstance(layer, nn.Conv1d) else x
    plain = kind.factorize(layer, rank)
    chain = fit_to_data(net, {"0": (kind, rank)}, [x], "whitened", asymmetric)["0"]
    assert miss(net, x, "0", chain) < 0.95 * miss(net, x, "0", plain)
    assert str(chain) == str(plain)
    for name, tensor in plain.state_dict().items():  # biases, orders of channels
        if not name.endswith("weight"):
            assert torch.equal(chain.state_dict()[name], tensor)
    # The factors do what one dense layer does.
    with torch.no_grad():
        assert relative(chain(x), recompose(chain)(x)) <= 1e-10


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(SliceWiseSVD(form="dense"), "it leaves a single layer"), (ProductQuantization(), "share their code words")],
    ids=["slice_wise_svd, dense", "product_quantization"],
)
def test_single_layers_are_refused(kind, reason):
    net = nn.Sequential(filled(nn.Conv2d(16, 16, 3)), nn.Flatten())
    for fit in FITS:
        refused(f"^0: there is no fit '{fit}' for {kind.name} .*{reason}", {"0": (kind, 2)}, fit, net=net)


def test_channels_that_are_dead_break_nothing():
    net, x = network(), smooth(40)
    with torch.no_grad():
        net[0].bias[:6] = -1e3  # six of eight channels are zero behind the ReLU
    for fit in FITS:
        for asymmetric in (False, True):
            small = replaced(net, fit_to_data(net, WANTED, [x], fit, asymmetric))
            assert all(p.isfinite().all() for p in small.parameters())
            assert max(p.abs().max() for p in small[2].parameters()) < 1e3
    alternating = fit_to_data(net, {"2": (SpatialSVD(), 3)}, [x], "whitened", asymmetric=True)["2"]
    plain = SpatialSVD().factorize(net[2], 3)
    assert miss(net, x, "2", alternating) <= miss(net, x, "2", plain)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("fit", FITS)
def test_constant_images_are_answered_exactly(fit, asymmetric):
    """A linear layer then sees one input; what is left of the rank must not run away."""
    net, x = network(), torch.full((6, 3, 8, 8), 0.7, dtype=torch.float64)
    chains = fit_to_data(net, {"2": (ChannelSVD(), 2), "6": (LinearSVD(), 2)}, [x], fit, asymmetric)
    before = replaced(net, {"2": chains["2"]}) if asymmetric else net
    # A ridge of 1 / (90 entries x 6 rows) of the one eigenvalue draws the map towards the weight.
    exact = 1e-2 if asymmetric and fit == "whitened" else 1e-8
    with torch.no_grad():
        assert relative(chains["6"](inputs(before, x, "6")), outputs(net, x, "6")) <= exact
    for chain in chains.values():
        assert max(p.abs().max() for p in chain.parameters()) < 100


def test_fewer_images_than_dimensions():
    net, x = network(), smooth(2)
    for fit in FITS:
        chain = fit_to_data(net, {"6": (LinearSVD(), 3)}, [x], fit)["6"]
        with torch.no_grad():
            seen = inputs(net, x, "6")
            assert relative(chain(seen), net[6](seen)) <= 1e-8
        assert max(p.abs().max() for p in chain.parameters()) < 100


@pytest.mark.parametrize("scale", [0.0, 1e-12])
def test_batch_norms_that_shut_a_channel_off(scale):
    net, x = network(), smooth(40)
    with torch.no_grad():
        net[3].weight[2] = scale
    chain = fit_to_data(net, {"2": WANTED["2"]}, [x], "relu", positions=64)["2"]
    norm = net[3].eval()
    plain = ChannelSVD().factorize(net[2], 2)
    assert all(p.isfinite().all() and p.abs().max() < 100 for p in chain.parameters())
    then = lambda y: F.relu(norm(y))  # noqa: E731
    assert miss(net, x, "2", chain, then) < miss(net, x, "2", plain, then)
    with torch.no_grad():
        net[3].weight.zero_()
    shut, linear = (fit_to_data(net, {"2": WANTED["2"]}, [x], fit)["2"] for fit in ("relu", "response"))
    assert torch.equal(shut[0].weight, linear[0].weight)


def test_transposed_and_three_dimensional_layers_act_on_responses():
    for layer, shape in ((nn.ConvTranspose2d(4, 6, 3, stride=2), (9, 4, 5, 5)), (nn.Conv3d(4, 6, 2), (9, 4, 3, 4, 5))):
        layer, x = filled(layer), images(shape)
        net = nn.Sequential(layer, nn.ReLU())
        with torch.no_grad():
            y = layer(x).transpose(0, 1).flatten(1).numpy()
        tail = (np.linalg.svd(y - y.mean(1, keepdims=True), compute_uv=False)[2:] ** 2).sum()
        chain = fit_to_data(net, {"0": (ChannelSVD(), 2)}, [x], "response")["0"]
        np.testing.assert_allclose(miss(net, x, "0", chain), tail, rtol=1e-8)


def test_all_calls_of_a_layer_are_pooled():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = filled(nn.Conv2d(4, 4, 3, padding=1))

        def forward(self, x):
            return self.layer(self.layer(x).relu()).relu()

    net, x = Twice(), smooth(20, channels=4)
    pooled = inputs(net, x, "layer")
    assert len(pooled) == 40
    one = nn.Sequential(net.layer, nn.ReLU())
    for fit in FITS:
        got = fit_to_data(net, {"layer": (ChannelSVD(), 2)}, [x], fit, positions=64)["layer"]
        wanted = fit_to_data(one, {"0": (ChannelSVD(), 2)}, [pooled], fit, positions=64)["0"]
        with torch.no_grad():
            assert relative(got(pooled), wanted(pooled)) <= 1e-6
    fit_to_data(net, {"layer": (ChannelSVD(), 2)}, [x], "relu", asymmetric=True)


def test_the_network_is_left_as_it_was():
    net, x = network(), smooth(10)
    net.train()
    net[3].eval()
    before, torch_state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    loader = DataLoader(TensorDataset(x), batch_size=4, shuffle=True)
    found = []
    for fit in FITS:
        for asymmetric in (False, True):
            chains = fit_to_data(net, WANTED, loader, fit, asymmetric)
            found.append(chains["2"][0].weight)
            assert all(chain.training for chain in chains.values())
            again = fit_to_data(net, WANTED, loader, fit, asymmetric)
            assert torch.equal(again["2"][0].weight, found[-1])
    assert [m.training for m in net] == [True, True, True, False, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_hooks_go_when_a_pass_fails():
    net, x = network(), smooth(4)
    net.train()
    with pytest.raises(RuntimeError):
        fit_to_data(net, WANTED, [x, x[:, :2]], "relu")
    assert all(m.training for m in net)
    assert not any(m._forward_hooks for m in net.modules())


def test_float32_and_frozen_layers_stay_so():
    net, x = network(bias=False).float(), smooth(20).float()
    net[0].weight.requires_grad_(False)
    chains = fit_to_data(net, WANTED, [x], "response")
    assert {p.dtype for chain in chains.values() for p in chain.parameters()} == {torch.float32}
    assert [p.requires_grad for p in chains["0"].parameters()] == [False, False, False]
    assert [p.requires_grad for p in chains["2"].parameters()] == [True, True, True]
    exact = fit_to_data(network(bias=False), WANTED, [smooth(20)], "response")
    with torch.no_grad():
        for name in WANTED:
            seen = inputs(net, x, name)
            assert relative(chains[name](seen), exact[name](seen.double())) <= 1e-3


def test_resnet_behind_its_batch_norms():
    """Every second convolution has a batch norm and a ReLU behind it, the others a sum."""
    torch.manual_seed(0)
    net = cifar_resnet(depth=8).double()
    x = smooth(24, side=16)
    wanted = {name: (ChannelSVD(), 6) for name in ("layer1.0.conv1", "layer1.0.conv2", "layer3.0.conv1")}
    found = fit_to_data(net, wanted, [x], "relu", schedule=CODE)
    linear = fit_to_data(net, wanted, [x], "response")
    norm = net.layer3[0].bn1.eval()
    then = lambda y: F.relu(norm(y))  # noqa: E731
    errors = [miss(net, x, "layer3.0.conv1", chains["layer3.0.conv1"], then) for chains in (found, linear)]
    assert errors[0] < errors[1]
    assert torch.equal(found["layer1.0.conv2"][0].weight, linear["layer1.0.conv2"][0].weight)


def refused(message, wanted=WANTED, fit="response", batches=None, net=None, **options):
    with pytest.raises(ValueError, match=message):
        fit_to_data(net or network(), wanted, [smooth(3)] if batches is None else batches, fit, **options)


def test_what_is_refused():
    refused("no fit to data 'pca'; there are whitened, response, relu", fit="pca")
    refused("^0: there is no fit 'relu' for spatial_svd, which has: whitened", {"0": (SpatialSVD(), 2)}, "relu")
    refused("no convolution or linear layer '1'", {"1": (ChannelSVD(), 2)})
    refused("6 cannot be decomposed by channel_svd: channel_svd takes", {"6": (ChannelSVD(), 2)})
    refused("0: rank 9 is above the full rank 8", {"0": (ChannelSVD(), 9)})
    refused("iterated only once", batches=iter([smooth(3)]))
    refused("batches are empty", batches=[])
    refused("must give tensors of images", batches=[{"x": smooth(3)}])
    refused("0: the data reach it with numbers that are not finite", batches=[smooth(3) * torch.nan])
    refused("0: the data reach it with numbers that are not finite", fit="relu", batches=[smooth(3) * torch.nan])
    refused("images must be a whole number of at least 1, got 0", images=0)
    refused("positions must be a whole number", positions=2.5)
    refused("cutoff must lie in", cutoff=1)
    refused("pairs of a penalty above 0", schedule=((0.0, 3),))


def test_layers_that_the_pass_never_calls_are_named():
    class Idle(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    refused("never calls 6", {"0": WANTED["0"], "6": WANTED["6"]}, net=Idle(*network()))


def test_batches_that_end_after_the_first_pass_are_noticed():
    class Once:
        left = 1

        def __iter__(self):
            self.left -= 1
            return iter([smooth(3)] if self.left >= 0 else [])

    refused("0: no data reach it any more", batches=Once())


def test_the_table():
    assert ChannelSVD().fits == LinearSVD().fits == set(FITS)
    assert SpatialSVD().fits == ChannelSVD(order="pointwise_first").fits == SliceWiseSVD().fits == {"whitened"}
    assert SliceWiseSVD(form="dense").fits == ProductQuantization().fits == frozenset()
    assert [adds_bias(fit) for fit in FITS] == [False, True, True]
    check_fit("whitened", "conv", SpatialSVD(), nn.Conv2d(3, 4, 3, device="meta"))
    with pytest.raises(ValueError, match="conv: there is no fit 'response' for spatial_svd"):
        check_fit("response", "conv", SpatialSVD(), nn.Conv2d(3, 4, 3, device="meta"))
    check_fit("whitened", "conv", SpatialSVD(), nn.ConvTranspose2d(3, 4, 3, device="meta"))
    check_fit("whitened", "conv", Tucker2(), nn.Conv3d(3, 4, 3, device="meta"))


def test_layers_without_the_fit_can_be_fitted_to_their_weights():
    """The others are fitted as if the unfitted factors were there all along."""
    net, data = network(), [smooth(40).double()]
    wanted = {"0": (ProductQuantization(), 4), "2": (SpatialSVD(), 3), "6": (LinearSVD(), 3)}
    with pytest.raises(ValueError, match="0: there is no fit 'whitened' for product_quantization"):
        fit_to_data(net, wanted, data, "whitened", asymmetric=True)
    chains = fit_to_data(net, wanted, data, "whitened", asymmetric=True, otherwise="weights")
    assert list(chains) == ["0", "2", "6"]
    quantized = ProductQuantization().factorize(net[0], 4)
    assert all(torch.equal(chains["0"].state_dict()[key], tensor) for key, tensor in quantized.state_dict().items())
    x, other = data[0], replaced(net, {"0": quantized})
    with torch.no_grad():
        inputs, wanted_y = other[:2].eval()(x), net[2](net[:2](x))
        ours = float((chains["2"](inputs) - wanted_y).square().sum())
        plain = float((SpatialSVD().factorize(net[2], 3)(inputs) - wanted_y).square().sum())
        symmetric = fit_to_data(net, {"2": (SpatialSVD(), 3)}, data, "whitened")["2"]
        unaware = float((symmetric(inputs) - wanted_y).square().sum())
    assert ours < unaware < plain
    alone = fit_to_data(net, {"0": wanted["0"]}, data, "whitened", otherwise="weights")
    assert list(alone) == ["0"]
    with pytest.raises(ValueError, match="otherwise='skip' is not known: refuse or weights"):
        fit_to_data(net, wanted, data, "whitened", otherwise="skip")
