import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models import VisionTransformer
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from lowrank_exp.decomposition import ChannelSVD, LinearSVD, SpatialSVD, refusals
from lowrank_exp.rank import Plan, PlannedLayer, profile
from lowrank_exp.surgery import factorize_
from support.cells import cells


class Scaled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def tied_bias():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(3, 4))
    model[1].bias = model[0].bias
    return model


def used_twice():
    layer = nn.Conv2d(2, 2, 1)
    return nn.Sequential(nn.Sequential(layer), layer)


def pruned(parameter):
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    prune.l1_unstructured(model[0], parameter, amount=1)
    return model


def old_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 4)))


REFUSED = {
    "tied weights": (tied, {"0": "tied: 0.weight, 2.weight", "2": "tied: 0.weight, 2.weight"}),
    "tied bias": (tied_bias, {"0": "tied: 0.bias, 1.bias", "1": "tied: 0.bias, 1.bias"}),
    "one layer in two places": (used_twice, {"0.0": "tied: 0.0.bias, 0.0.weight, 1.bias, 1.weight"}),
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))), {"0": "parametrized"}),
    "spectral norm": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 3, 3))), {"0": "parametrized"}),
    "weight norm of old": (old_weight_norm, {"0": "parametrized"}),
    "spectral norm of old": (
        lambda: nn.Sequential(torch.nn.utils.spectral_norm(nn.Conv2d(2, 3, 3))),
        {"0": "parametrized"},
    ),
    "pruning mask on the weight": (lambda: pruned("weight"), {"0": "parametrized"}),
    "pruning mask on the bias": (lambda: pruned("bias"), {"0": "parametrized"}),
    "attention": (lambda: nn.Sequential(nn.MultiheadAttention(4, 2)), {"0.out_proj": "output projection"}),
    "transformer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8)),
        {"0.self_attn.out_proj": "output projection", "0.linear1": "fast path", "0.linear2": "fast path"},
    ),
    "Swin": (
        lambda: nn.Sequential(ShiftedWindowAttention(4, [2, 2], [0, 0], 2)),
        {"0.qkv": "read by its parent, ShiftedWindowAttention", "0.proj": "it is never called itself"},
    ),
    "Swin V2": (
        lambda: nn.Sequential(ShiftedWindowAttentionV2(4, [2, 2], [0, 0], 2)),
        {"0.qkv": "read by its parent, ShiftedWindowAttentionV2", "0.proj": "never called"},
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyLinear(3)), {"0": "lazy", "1": "lazy"}),
    "subclass": (lambda: nn.Sequential(Scaled(2, 3, 3)), {"0": "Scaled is a subclass"}),
    "complex": (lambda: nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64)), {"0": "torch.complex64"}),
}


@cells(("build", "wanted"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name_and_reason(build, wanted):
    found = refusals(build())
    assert found.keys() == wanted.keys()
    for name, reason in wanted.items():
        assert reason in found[name]


@cells(("build", "wanted"), REFUSED.values(), ids=REFUSED.keys())
def test_factorizing_a_refused_layer_names_it_with_the_reason(build, wanted):
    for name, reason in wanted.items():
        with pytest.raises(ValueError, match=rf"^{name} cannot be decomposed by \w+: .*{reason}"):
            factorize_(build(), {name: 1}, "channel_svd")


def test_nothing_is_refused_in_a_plain_network():
    assert refusals(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))) == {}


@pytest.mark.filterwarnings("ignore:torch counts")  # of products outside its layers
def test_a_vision_transformer_works_on_with_all_that_may_be_replaced():
    torch.manual_seed(0)
    model = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=20, num_classes=3).eval()
    x = torch.randn(2, 3, 16, 16)
    before = model(x)
    layers = profile(model, x, {"conv": "channel_svd", "linear": "linear_svd"})
    refused = {name for name, layer in layers.items() if layer.refusal}
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in (0, 1)]
    assert refused == {f"{block}.self_attention.out_proj" for block in blocks}
    full = {name: layer.full_rank for name, layer in layers.items() if not layer.refusal}
    assert full.keys() == {"conv_proj", "heads.head", *(f"{block}.mlp.{i}" for block in blocks for i in (0, 3))}
    factorize_(model, full, {"conv": "channel_svd", "linear": "linear_svd"})
    assert torch.allclose(model(x), before, atol=1e-5)


@pytest.mark.filterwarnings("ignore:torch counts")  # of products outside its layers
def test_what_a_parent_only_reads_the_weight_of_is_refused_by_the_profile():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.called = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.called(nn.functional.linear(x, self.inner.weight))

    layers = profile(Reads(), torch.zeros(1, 4), "linear_svd")
    assert layers["inner"].refusal == "its weight is read by its parent, Reads; it is never called itself"
    assert layers["called"].refusal is None


def test_a_lazy_layer_is_plain_after_its_first_call():
    model = nn.Sequential(nn.LazyConv2d(3, 3))
    model(torch.zeros(1, 2, 5, 5))
    assert refusals(model) == {}


def test_a_removed_parametrization_no_longer_counts():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert refusals(model) == {}


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3), nn.Linear(3, 2), nn.ConvTranspose1d(2, 2, 2)])
def test_a_bare_layer_is_no_model(layer):
    with pytest.raises(ValueError, match=rf"bare {type(layer).__name__}.*Wrap it: torch.nn.Sequential"):
        factorize_(layer, {"": 1})


@pytest.mark.parametrize(
    ("decomposition", "layer", "reason"),
    [
        (SpatialSVD(), nn.Conv3d(2, 3, 3), "spatial_svd takes Conv2d, Conv1d, .*, not Conv3d"),
        (SpatialSVD(), nn.ConvTranspose3d(2, 3, 3), "not ConvTranspose3d"),
        (SpatialSVD(), nn.Linear(2, 3), "spatial_svd takes .*, not Linear"),
        (ChannelSVD(), nn.Linear(2, 3), "channel_svd takes .*, not Linear"),
        (LinearSVD(), nn.Conv2d(2, 3, 1), "linear_svd takes Linear, not Conv2d"),
    ],
)
def test_layers_of_the_wrong_kind(decomposition, layer, reason):
    plan = Plan({"1": PlannedLayer(1, decomposition.name, "by hand")})
    with pytest.raises(ValueError, match=rf"^1 cannot be decomposed by {decomposition.name}: .*{reason}"):
        factorize_(nn.Sequential(nn.ReLU(), layer), plan)
