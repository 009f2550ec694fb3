import copy

import torch
from timm.layers import ConvNormAct
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lowrank_exp.runtime.folded import folded
from support.runtime_networks import batch_norms, networks, outputs, with_statistics
from support.small_networks import Net


def test_batch_norms_after_layers_of_every_kind_are_folded():
    torch.manual_seed(0)
    found = {"residual": 2, "depthwise, grouped, transposed": 3, "1-D": 2, "3-D": 1}
    for name, (network, shape) in networks().items():
        network, x = with_statistics(network).double(), torch.randn(shape).double()
        assert batch_norms(network) == found[name]
        small = folded(network, x)
        assert batch_norms(small) == 0, name
        wanted = outputs(copy.deepcopy(network).eval(), x)
        torch.testing.assert_close(outputs(small, x), wanted, rtol=1e-12, atol=1e-12)
        assert batch_norms(network) == found[name], name
        assert not any(m.training for m in small.modules()), name


def test_batch_norms_of_timm_leave_their_activation():
    torch.manual_seed(0)
    layer = ConvNormAct(3, 8, 3, act_layer=nn.LeakyReLU)
    network, x = nn.Sequential(layer, nn.Conv2d(8, 4, 1)).double().eval(), torch.randn(2, 3, 6, 6).double()
    assert batch_norms(with_statistics(network)) == 1
    small = folded(network, x)
    assert batch_norms(small) == 0
    torch.testing.assert_close(outputs(small, x), outputs(network, x), rtol=1e-12, atol=1e-12)


def layers():
    return {"conv": nn.Conv2d(3, 4, 3, padding=1), "norm": with_statistics(nn.BatchNorm2d(4))}


def test_a_batch_norm_whose_input_others_read_stays():
    """Each of these reads the output of the convolution once more, or otherwise than as a batch norm of all of it."""
    torch.manual_seed(0)

    def called_twice(net, x):
        return net.norm(net.conv(net.conv(x)[:, :3]))

    def norm_called_twice(net, x):
        return net.norm(net.norm(net.conv(x)))

    def added(net, x):
        y = net.conv(x)
        return net.norm(y) + y

    def given_out(net, x):
        y = net.conv(x)
        return {"norm": net.norm(y), "conv": y}["norm"] if x.sum() > 1e9 else (net.norm(y), y)[0] + 0 * y.mean()

    def changed_between(net, x):
        return net.norm(F.relu(net.conv(x), inplace=True))

    def read_by_its_parts(net, x):
        y = net.conv(x)
        return F.batch_norm(y, net.norm.running_mean, net.norm.running_var)

    for run in (called_twice, norm_called_twice, added, given_out, changed_between, read_by_its_parts):
        network, x = Net(run, **layers()).eval(), torch.randn(2, 3, 6, 6)
        small = folded(network, x)
        assert batch_norms(small) == 1, run.__name__
        assert torch.equal(outputs(small, x), outputs(network, x)), run.__name__


def test_an_output_of_the_network_is_not_folded_away():
    network, x = Net(lambda net, x: [y := net.conv(x), net.norm(y)], **layers()).eval(), torch.randn(2, 3, 6, 6)
    small = folded(network, x)
    assert batch_norms(small) == 1
    for got, wanted in zip(outputs(small, x), outputs(network, x), strict=True):
        assert torch.equal(got, wanted)


def test_what_is_not_a_plain_layer_or_batch_norm_stays():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    of_the_batch = nn.BatchNorm2d(4, track_running_stats=False)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    hooked = nn.Conv2d(3, 4, 3)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    for name, network in {
        "statistics of the batch": nn.Sequential(nn.Conv2d(3, 4, 3), of_the_batch),
        "parametrization": nn.Sequential(normed, with_statistics(nn.BatchNorm2d(4))),
        "hook": nn.Sequential(hooked, with_statistics(nn.BatchNorm2d(4))),
        "nothing before": nn.Sequential(with_statistics(nn.BatchNorm2d(3)), nn.Conv2d(3, 4, 3)),
        "features last": nn.Sequential(nn.Flatten(2), nn.Linear(36, 5), with_statistics(nn.BatchNorm1d(3))),
    }.items():
        small = folded(network.eval(), x)
        assert batch_norms(small) == 1, name
        torch.testing.assert_close(outputs(small, x), outputs(network, x), rtol=0, atol=0, msg=name)


def test_a_weight_that_layers_share_keeps_its_value_in_the_other_layer():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.weight = first.weight
    network = nn.Sequential(first, with_statistics(nn.BatchNorm2d(3)), second, nn.BatchNorm2d(3, affine=False)).eval()
    network.double()
    x = torch.randn(2, 3, 6, 6).double()
    small = folded(network, x)
    assert batch_norms(small) == 0
    torch.testing.assert_close(outputs(small, x), outputs(network, x), rtol=1e-12, atol=1e-12)
