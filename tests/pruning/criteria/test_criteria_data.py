import gc

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy, relu

from lowrank_exp.models import cifar_resnet
from lowrank_exp.pruning.criteria import (
    OBD,
    ActivationMean,
    ActivationStd,
    APoZ,
    Gradient,
    Taylor,
    filter_scores,
)

DATA = [Taylor(), OBD(), ActivationMean(), ActivationStd(), APoZ(), Gradient()]
# Three images of two pixels; three 1 x 1 filters of one channel; the output is a weighted sum of the maps.
PIXELS = torch.tensor([[1.0, 2.0], [-1.0, 3.0], [2.0, -4.0]], dtype=torch.float64)
FILTERS = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
HEAD = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
LABELS = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)


class Weighed(nn.Module):
    """conv - relu - sum over the pixels of the weighted maps, `(N,)`."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1, bias=False).double()
        self.conv.weight.data = FILTERS.view(3, 1, 1, 1)

    def forward(self, x):
        return (relu(self.conv(x)) * HEAD.view(3, 1, 1)).sum(dim=(1, 2, 3))


def half_squares(output, labels):
    return ((output - labels) ** 2 / 2).mean()


def by_hand(at="relu"):
    """The maps z and the gradients g of each image's own loss, `(N, O, M)`."""
    own_NOM = PIXELS[:, None, :] * FILTERS[None, :, None]
    z_NOM = own_NOM.clamp(min=0)
    residual_N = (z_NOM.sum(dim=2) * HEAD).sum(dim=1) - LABELS
    g_NOM = (residual_N[:, None, None] * HEAD[None, :, None]).expand(3, 3, 2)
    return (z_NOM, g_NOM) if at == "relu" else (own_NOM, g_NOM * (own_NOM > 0))


def expected_scores(at):
    z, g = by_hand(at)
    y, total = (z * g).mean(dim=2), (z * g).sum(dim=2)
    flat = z.transpose(0, 1).flatten(1)
    return {
        Taylor(at=at): y.abs().mean(dim=0),
        Taylor(at=at, absolute="mean"): y.mean(dim=0).abs(),
        Taylor(at=at, absolute="none"): y.mean(dim=0),
        Taylor(at=at, positions="sum"): total.abs().mean(dim=0),
        OBD(at=at): total.var(dim=0, correction=0) / 2,
        OBD(at=at, form="second_moment"): (total**2).mean(dim=0) / 2,
        ActivationMean(at=at): flat.mean(dim=1),
        ActivationStd(at=at): flat.std(dim=1, correction=0),
        APoZ(at=at): (flat > 0).double().mean(dim=1),
        Gradient(at=at): g.abs().mean(dim=(0, 2)),
    }


def batches_of(size):
    images = PIXELS.view(3, 1, 1, 2)
    return list(zip(images.split(size), LABELS.split(size), strict=True))


@pytest.mark.parametrize("at", ["relu", "layer"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_three_filters_by_hand(at, size):
    for criterion, expected in expected_scores(at).items():
        got = filter_scores(Weighed(), ["conv"], criterion, batches_of(size), half_squares)["conv"]
        torch.testing.assert_close(got, expected, msg=f"{criterion}")


def test_figures_of_that_example():
    """Some of them as numbers: the maps of the first filter are (1, 2), (0, 3), (2, 0)."""
    expected = expected_scores("relu")
    assert expected[ActivationMean()].tolist() == pytest.approx([8 / 6, 5 / 6, 16 / 6])
    assert expected[APoZ()].tolist() == pytest.approx([4 / 6, 2 / 6, 4 / 6])
    # residuals 3 - 6 - 1 = -4, 3 + 2 - 6 - 0 = -1, 2 + 8 - 4 - 2 = 4
    assert expected[Gradient()].tolist() == pytest.approx([3.0, 6.0, 3.0])
    assert expected[Taylor()].tolist() == pytest.approx([(6 + 1.5 + 4) / 3, (0 + 1 + 16) / 3, (12 + 3 + 8) / 3])
    assert expected[Taylor(absolute="mean")].tolist() == pytest.approx([3.5 / 3, 15 / 3, 7 / 3])


def test_where_the_absolute_value_is_taken_decides_the_order():
    """Two images whose terms cancel out in the first filter, and do not in the second."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten())
    network[0].weight.data = torch.tensor([1.0, 1.0]).view(2, 1, 1, 1)
    images, weights = torch.ones(2, 1, 1, 1), torch.tensor([[5.0, 1.0], [-5.0, 1.0]])

    def loss(output, weights):
        return (output * weights).sum(dim=1).mean()

    of = {
        absolute: filter_scores(network, ["0"], Taylor(absolute=absolute), [(images, weights)], loss)["0"].tolist()
        for absolute in ("image", "mean", "none")
    }
    assert of == {"image": [5.0, 1.0], "mean": [0.0, 1.0], "none": [0.0, 1.0]}


class Gated(nn.Module):
    """A network of two convolutions with a gate on every map behind its batch norm and ReLU."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, stride=2), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)
        for norm in (self.bn1, self.bn2):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias), nn.init.normal_(norm.running_mean)
        self.gates = {"conv1": torch.ones(4), "conv2": torch.ones(5)}
        self.double().eval()

    def forward(self, x):
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2)):
            gate = self.gates["conv1" if conv is self.conv1 else "conv2"]
            x = relu(norm(conv(x)))
            x = x if bool((gate == 1).all()) else x * gate.view(-1, 1, 1)
        return self.fc(x.mean(dim=(2, 3)))


def test_signed_taylor_is_the_derivative_of_the_loss_by_a_gate():
    network = Gated()
    x = torch.randn(6, 2, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(6) % 3
    signed = Taylor(absolute="none", positions="sum")
    got = filter_scores(network, ["conv1", "conv2"], signed, [(x[:4], y[:4]), (x[4:], y[4:])])
    mean = filter_scores(network, ["conv1", "conv2"], Taylor(absolute="none"), [(x, y)])
    torch.testing.assert_close(mean["conv1"] * 49, got["conv1"])
    torch.testing.assert_close(mean["conv2"] * 9, got["conv2"])
    for name, gate in network.gates.items():
        for f in range(len(gate)):
            losses = []
            for step in (1e-4, -1e-4):
                gate[f] = 1 + step
                losses.append(float(cross_entropy(network(x), y).detach()))
                gate[f] = 1
            # gate is float32: its steps as they are stored
            derivative = (losses[0] - losses[1]) / (float(torch.tensor(1 + 1e-4)) - float(torch.tensor(1 - 1e-4)))
            assert float(got[name][f]) == pytest.approx(derivative, rel=1e-6, abs=1e-8)


def hooked(network, layer, images, labels):
    """Each image's own gradient by the output of a module, and that output, by autograd image by image."""
    outputs, gradients = [], []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output) or output.clone())
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        outputs.clear()
        loss = cross_entropy(network(image), label)
        gradients.append((outputs[0].detach(), torch.autograd.grad(loss, outputs[0])[0]))
    handle.remove()
    return [torch.cat(parts) for parts in zip(*gradients, strict=True)]


@pytest.mark.parametrize("network", ["ours", "torchvision"])
def test_maps_of_residual_networks_that_add_in_place(network):
    """Behind the last batch norm of a block the shortcut is added, in torchvision's network into the same memory."""
    torch.manual_seed(0)
    model = (cifar_resnet(input_size=8) if network == "ours" else torchvision.models.resnet18(num_classes=10)).eval()
    pairs = {"layer1.0.conv1": "layer1.0.bn1", "layer2.0.conv2": "layer2.0.bn2", "layer3.1.conv2": "layer3.1.bn2"}
    images = torch.randn(4, 3, *((8, 8) if network == "ours" else (32, 32)))
    labels = torch.arange(4)
    model = model.double()
    images = images.double()
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    taylor = filter_scores(model, list(pairs), Taylor(), batches)
    means = filter_scores(model, list(pairs), ActivationMean(), batches)
    apoz = filter_scores(model, list(pairs), APoZ(), batches)
    gradients = filter_scores(model, list(pairs), Gradient(), batches)
    own = filter_scores(model, list(pairs), Taylor(at="layer"), batches)
    for conv, norm in pairs.items():
        z, g = hooked(model, model.get_submodule(norm), images, labels)
        last = conv.endswith("conv2")  # no ReLU of its own
        torch.testing.assert_close(taylor[conv], (z * g).mean(dim=(2, 3)).abs().mean(dim=0))
        torch.testing.assert_close(means[conv], (z if last else relu(z)).mean(dim=(0, 2, 3)))
        torch.testing.assert_close(apoz[conv], (z > 0).double().mean(dim=(0, 2, 3)))
        if last:
            torch.testing.assert_close(gradients[conv], g.abs().mean(dim=(0, 2, 3)))
        z, g = hooked(model, model.get_submodule(conv), images, labels)
        torch.testing.assert_close(own[conv], (z * g).mean(dim=(2, 3)).abs().mean(dim=0))


@pytest.mark.parametrize("criterion", DATA)
def test_activations_in_place_and_as_functions_give_the_same_maps(criterion):
    def network(kind):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), kind, nn.Conv2d(4, 3, 3), kind, nn.Flatten(), nn.Linear(12, 3))
        )

    class Functional(nn.Module):
        def forward(self, x):
            return x.relu()

    batches = [(torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3)]
    for at in ("relu", "layer"):
        one = type(criterion)(at=at)
        kinds = (nn.ReLU(), nn.ReLU(inplace=True), Functional())
        plain, *others = (filter_scores(network(kind), ["0", "3", "6"], one, batches) for kind in kinds)
        for other in others:
            assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_the_network_is_as_it_was_and_frozen_layers_are_scored():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten())
    network.append(nn.Linear(4 * 16, 3))
    batches = [(torch.randn(5, 1, 6, 6), torch.arange(5) % 3)]
    expected = filter_scores(network, ["0", "5"], Taylor(), batches)
    network[0].requires_grad_(False)
    network[5].weight.grad = torch.ones_like(network[5].weight)
    network.train()[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    got = filter_scores(network, ["0", "5"], Taylor(), batches)
    assert all(torch.equal(got[name], expected[name]) for name in got)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network[0].weight.grad is None
    assert torch.equal(network[5].weight.grad, torch.ones_like(network[5].weight))
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_that_is_called_twice_has_one_gate():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=1).double()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return relu(self.conv(relu(self.conv(x)))).mean(dim=(2, 3))

    x, y = torch.randn(3, 2, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 0])
    got = filter_scores(Twice(), ["conv"], Taylor(positions="sum"), [(x, y)])["conv"]
    terms = torch.zeros(3, 2, dtype=torch.float64)
    for n in range(3):
        first = relu(conv(x[n : n + 1]))
        second = relu(conv(first))
        loss = cross_entropy(second.mean(dim=(2, 3)), y[n : n + 1])
        for z in (first, second):
            (g,) = torch.autograd.grad(loss, z, retain_graph=True)
            terms[n] += (z * g).sum(dim=(0, 2, 3)).detach()
    torch.testing.assert_close(got, terms.abs().mean(dim=0))


def test_features_of_a_linear_layer_over_several_positions():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Flatten(), nn.Linear(3 * 5, 2))
    x = torch.randn(6, 5, 4)
    got = filter_scores(network, ["0"], ActivationMean(), [(x, torch.zeros(6, dtype=torch.long))])["0"]
    expected = nn.functional.gelu(network[0](x)).mean(dim=(0, 1)).double()
    torch.testing.assert_close(got, expected.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("criterion", DATA)
def test_memory_does_not_grow_with_the_batches(criterion):
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten())
    network.append(nn.Linear(8 * 36, 4))
    alive = []

    def batches():
        for _ in range(5):
            gc.collect()
            alive.append(sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor))
            yield torch.randn(4, 1, 8, 8), torch.arange(4)

    gc.collect()
    gc.freeze()  # what was there before is neither collected nor counted
    try:
        filter_scores(network, ["0", "4"], criterion, batches())
    finally:
        gc.unfreeze()
    assert len(alive) == 5
    assert 0 < alive[1] == alive[2] == alive[4]


@pytest.mark.parametrize(
    ("criterion", "layers", "batches", "told"),
    [
        (Taylor(), ["0"], None, "Taylor looks at images: give batches"),
        (APoZ(), ["0"], [], "APoZ looks at images, and the batches gave none"),
        (Taylor(), ["unused"], [(torch.randn(2, 4), torch.zeros(2, dtype=torch.long))], "unused has no map on the way"),
        (Taylor(), ["0"], [(torch.zeros(2, 4, dtype=torch.long), torch.zeros(2))], "torch.int64: give floats"),
    ],
)
def test_mistakes_are_told(criterion, layers, batches, told):
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network[1].unused = nn.Linear(1, 1)
    layers = ["1.unused" if name == "unused" else name for name in layers]
    with pytest.raises(ValueError, match=told):
        filter_scores(network, layers, criterion, batches)


def test_images_must_come_first():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(x.transpose(0, 1)).mean(dim=0)

    with pytest.raises(ValueError, match=r"fc made a map of shape \(5, 3, 2\) of 2 images"):
        filter_scores(Turned(), ["fc"], APoZ(), [(torch.randn(2, 5, 4), torch.zeros(2))])


@pytest.mark.parametrize("make", [lambda: Taylor(at="bn"), lambda: Taylor(absolute="batch"), lambda: OBD(form="x")])
def test_unknown_options_are_told(make):
    with pytest.raises(ValueError, match="is not known"):
        make()


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_layers_behind_a_part_without_gradients_have_the_scores_that_they_have_alone(without):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    head = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head = trunk.double(), head

        def forward(self, x):
            with without():
                x = self.trunk(x)
            return self.head(x.clone())

    images, labels = torch.randn(5, 1, 6, 6, dtype=torch.float64), torch.arange(5) % 3
    network = Network()
    got = filter_scores(network, ["head.1", "head.4"], Taylor(), [(images, labels)])
    wanted = filter_scores(head, ["1", "4"], Taylor(), [(trunk(images).detach(), labels)])
    for name in ("1", "4"):
        torch.testing.assert_close(got[f"head.{name}"], wanted[name], rtol=1e-12, atol=0)
        assert wanted[name].min() > 0
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    with pytest.raises(ValueError, match=r"trunk\.0 has no map on the way from the images to the output"):
        filter_scores(network, ["trunk.0"], Taylor(), [(images, labels)])
