"""At full rank no network changes: one of every family of timm, and torchvision's classifiers."""

import warnings

import pytest
import timm
import torch
import torchvision

from lowrank_exp.network.cost import OUTSIDE
from lowrank_exp.network.shapes import meta_copy
from lowrank_exp.rank import allocate, profile
from lowrank_exp.replacing import trial
from lowrank_exp.surgery import factorize_

KINDS = {"conv": "channel_svd", "linear": "linear_svd"}
LARGE = 100_000  # weights: larger layers are tried, and left dense, for their SVDs would take minutes
GROUPS = 12

# The smallest of each of timm's modules, or a thin one of the kind: its name, an image size it takes, arguments.
TIMM = {
    "beit": ("beit_base_patch16_224", 224, {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    "byoanet": ("eca_botnext26ts_256", 256),
    "byobnet": ("test_byobnet", 64),
    "cait": ("cait_xxs24_224", 224, {"depth": 2}),
    "coat": ("coat_tiny", 224),
    "convit": ("convit_tiny", 224),
    "convmixer": ("convmixer_1024_20_ks9_p14", 64),
    "convnext": ("test_convnext", 64),
    "cpubone": ("cpubone_nano", 64),
    "crossvit": ("crossvit_tiny_240", 64),
    "csatv2": ("csatv2", 64),
    "cspnet": ("cs3darknet_focus_s", 64),
    "cspnext": ("cspnext_tiny", 64),
    "davit": ("davit_tiny", 64, {"depths": (1, 1, 1, 1), "embed_dims": (32, 64, 96, 128), "num_heads": (1, 2, 3, 4)}),
    "deepseek_vit": ("deepseek_vit_412m", 224, {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    "deit": ("deit_tiny_patch16_224", 224),
    "densenet": ("densenet121", 64, {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
    "dla": ("dla46_c", 64),
    "dpn": ("dpn48b", 64),
    "edgenext": ("edgenext_xx_small", 64),
    "efficientformer": ("efficientformer_l1", 224, {"depths": (1, 1, 1, 2), "embed_dims": (16, 32, 48, 64)}),
    "efficientformer_v2": ("efficientformerv2_s0", 224),
    "efficientnet": ("mnasnet_small", 64),
    "efficientvim": ("efficientvim_m1", 64),
    "efficientvit_mit": ("efficientvit_b0", 64),
    "efficientvit_msra": ("efficientvit_m0", 64),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 64),
    "fasternet": ("fasternet_t0", 64),
    "fastvit": ("fastvit_t12", 64),
    "focalnet": ("focalnet_tiny_srf", 64),
    "gcvit": ("gcvit_xxtiny", 224),
    "gemma4_vit": ("gemma4_vit_167m_enc", 96, {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    "ghostnet": ("ghostnet_050", 64),
    "hardcorenas": ("hardcorenas_b", 64),
    "hgnet": ("hgnetv2_b0", 64),
    "hiera": ("hiera_tiny_224", 224, {"embed_dim": 24}),
    "hieradet_sam2": ("sam2_hiera_tiny", 64, {"embed_dim": 24}),
    "hrnet": ("hrnet_w18_small", 64),
    "iformer": ("iformer_t", 64),
    "inception_next": ("inception_next_atto", 64),
    "inception_resnet_v2": ("inception_resnet_v2", 96),
    "inception_v3": ("inception_v3", 96),
    "inception_v4": ("inception_v4", 96),
    "lcnetv2": ("lcnetv2_small", 64),
    "levit": ("levit_128s", 224),
    "lowformer": ("lowformer_b0", 64),
    "mambaout": ("test_mambaout", 64),
    "maxxvit": ("test_coatnet", 160),
    "metaformer": ("poolformerv2_s12", 64),
    "mlp_mixer": ("mixer_s16_224", 224),
    "mobilenetv3": ("lcnet_035", 64),
    "mobilevit": ("mobilevit_xxs", 64),
    "mvitv2": ("mvitv2_tiny", 64),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", 64, {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    "nasnet": ("nasnetalarge", 64),
    "nest": ("nest_tiny", 224),
    "nextvit": ("nextvit_small", 64),
    "nfnet": ("test_nfnet", 64),
    "pit": ("pit_xs_224", 224),
    "pnasnet": ("pnasnet5large", 64),
    "pvt_v2": ("pvt_v2_b0", 64),
    "qwen3_vit": ("qwen3_vit_88m", 64, {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    "rdnet": ("rdnet_tiny", 64),
    "regnet": ("regnetx_002", 64),
    "repghost": ("repghostnet_050", 64),
    "repvit": ("repvit_m1_0", 64),
    "res2net": ("res2net50_26w_4s", 64),
    "resnest": ("resnest26d", 64),
    "resnet": ("resnet10t", 64),
    "resnetv2": ("resnetv2_18", 64),
    "rexnet": ("rexnet_100", 64),
    "selecsls": ("selecsls42", 64),
    "senet": ("legacy_seresnet18", 64),
    "sequencer": (
        "sequencer2d_s",
        64,
        {"layers": (1, 1, 1, 1), "embed_dims": (32, 64, 64, 64), "hidden_sizes": (8, 16, 16, 16)},
    ),
    "shvit": ("shvit_s1", 64),
    "sknet": ("skresnet18", 64),
    "starnet": ("starnet_s050", 64),
    "swiftformer": ("swiftformer_xs", 64),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 224, {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 256, {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 224, {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "tiny_vit": ("tiny_vit_5m_224", 64),
    "tnt": ("tnt_s_legacy_patch16_224", 224, {"depth": 2, "embed_dim": 96, "num_heads_outer": 3}),
    "tresnet": ("tresnet_m", 64),
    "twins": ("twins_svt_small", 64, {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64)}),
    "vgg": ("vgg11", 64),
    "visformer": ("visformer_tiny", 224, {"depth": (1, 1, 1), "embed_dim": 64}),
    "vision_transformer": ("test_vit", 64),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 224),
    "vision_transformer_relpos": ("test_vit_relpos", 160),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 3, "global_attn_indexes": (1,)},
    ),
    "vitamin": ("vitamin_small_224", 224, {"depth": 2}),
    "volo": ("volo_d1_224", 224),
    "vovnet": ("ese_vovnet19b_slim_dw", 64),
    "xception": ("legacy_xception", 64),
    "xception_aligned": ("xception41p", 64),
    "xcit": ("xcit_nano_12_p8_224", 64),
    "mobilenetv5": ("mobilenetv5_base", 64),
}


def wrong_at_full_rank(model, x):
    """What is wrong with a network after all of its layers that can be replaced were factorized; None: nothing."""
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:  # such as start at zero, and would hide what stands before them
                parameter.normal_(0, 0.1)
        wanted = model(x)
    layers, refused = profile(meta_copy(model), x, KINDS), trial(model, x)
    on_meta = {name for name, layer in layers.items() if layer.refusal and name not in OUTSIDE.values()}
    if on_meta != refused.keys():
        return f"the trial on numbers and the one on the meta device differ in {on_meta ^ refused.keys()}"
    full = {n: layer.full_rank for n, layer in layers.items() if not layer.refusal and layer.weights <= LARGE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # full ranks are not cheaper
        factorize_(model, allocate(layers, "fixed", ranks=full))
    with torch.no_grad():
        error = ((model(x) - wanted).norm() / wanted.norm()).item()
    return None if full and error < 1e-4 else f"the output differs by {error:.1e}, {len(full)} layers factorized"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch counts")  # of products outside its layers
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_family_of_timm(group):
    wrong = {}
    for name, size, *arguments in list(TIMM.values())[group::GROUPS]:
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **(arguments[0] if arguments else {}))
        if (what := wrong_at_full_rank(model, torch.randn(1, 3, size, size))) is not None:
            wrong[name] = what
    assert wrong == {}


SIZES = {"inception_v3": 96, "maxvit_t": 224, "vit": 224}  # where images of 64 are too small
HEAVY = 15_000_000  # parameters; larger networks of torchvision are longer or wider ones of the same code
LARGER = {"maxvit_t": 31_000_000, "convnext_tiny": 29_000_000, "swin_t": 29_000_000, "swin_v2_t": 29_000_000}


def small_classifiers():
    for name in torchvision.models.list_models(module=torchvision.models):
        parameters = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
        if parameters < LARGER.get(name, HEAVY):
            yield name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch counts")  # of products outside its layers
@pytest.mark.parametrize("group", range(4))
def test_classifiers_of_torchvision(group):
    wrong = {}
    for name in list(small_classifiers())[group::4]:
        size = next((size for start, size in SIZES.items() if name.startswith(start)), 64)
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, num_classes=5)
        if (what := wrong_at_full_rank(model, torch.randn(1, 3, size, size))) is not None:
            wrong[name] = what
    assert wrong == {}
