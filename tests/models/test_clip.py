"""CLIP as a zero-shot classifier, with small networks that open_clip builds; nothing is downloaded."""

import copy
import json
import math
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode

from lowrank_exp import factorize_, load, measure, profile, save
from lowrank_exp.files.results import Result
from lowrank_exp.models import clip, load_weights_
from lowrank_exp.models.prompts import class_names, prompt_templates
from support.cells import cells
from support.smoke import SMOKE

TEXT = {"layers": 1, "width": 16, "heads": 2}
VIT = {
    "embed_dim": 12,
    "vision_cfg": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": TEXT,
}
RESNET = {"embed_dim": 12, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 4, "head_width": 32}, "text_cfg": TEXT}
KINDS = {"conv": "channel_svd", "linear": "linear_svd"}
NAMES = ["cat", "golden_retriever", "tree frog"]


def donor(arguments=VIT, base="ViT-B-32", size=32, log_scale=4.6051702, seed=1):
    """A CLIP network of open_clip itself, made from a configuration."""
    config = open_clip.get_model_config(base)
    for key, value in arguments.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    config["vision_cfg"]["image_size"] = size
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        separate = config.pop("custom_text", False)
        model = (open_clip.CustomTextCLIP if separate else open_clip.CLIP)(**config).eval()
        with torch.no_grad():
            model.logit_scale.fill_(log_scale)
            for name, parameter in model.named_parameters():  # its start values are nearly alike for every prompt
                if "text" in name or name.startswith(("transformer", "token", "positional")):
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def tiny(arguments=VIT, name="ViT-B-32", num_classes=3, input_size=32, **options):
    return clip(name, arguments, num_classes=num_classes, input_size=input_size, **options)


def open_clips_weight(model, names, templates, name="ViT-B-32"):
    return open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer(name), names, templates)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# -- the classifier ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*took its tensors, without")  # a prefix is part of the cases
@pytest.mark.parametrize(
    ("base", "arguments"),
    [("ViT-B-32", VIT), ("ViT-B-32-quickgelu", VIT), ("RN50", RESNET), ("ViT-B-32", VIT | {"custom_text": True})],
    ids=["ViT", "QuickGELU", "ResNet", "separate text encoder"],
)
def test_classifier_and_logits_are_open_clips(base, arguments, images, tmp_path):
    model = donor(arguments, base)
    path = tmp_path / ("clip.safetensors" if base == "ViT-B-32" else "clip.pt")
    write = save_file if path.suffix == ".safetensors" else torch.save
    write({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, path)
    network = tiny(arguments, base, templates="simple_imagenet", weights=str(path)).eval()
    assert network.classes_are_(NAMES) is network
    names = ["cat", "golden retriever", "tree frog"]
    wanted_EC = open_clips_weight(model, names, open_clip.SIMPLE_IMAGENET_TEMPLATES, base)
    assert network.W.shape == (12, 3)
    assert torch.allclose(network.W, wanted_EC, atol=1e-6)
    assert (network.W[:, 0] - network.W[:, 1]).norm() > 0.01  # the names do matter
    assert network.scale.item() == pytest.approx(100, rel=1e-6)
    with torch.no_grad():
        wanted = 100 * normalize(model.encode_image(images), dim=-1) @ wanted_EC
        assert torch.allclose(network(images), wanted, atol=2e-4)


def test_the_scale_is_that_of_the_checkpoint(images, tmp_path):
    model = donor(log_scale=2.0)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    network = tiny(weights=tmp_path / "clip.pt").classes_are_(NAMES)
    assert network.scale.item() == pytest.approx(math.e**2, rel=1e-6)
    assert tiny().scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert tiny(VIT | {"init_logit_scale": 0.5}).scale.item() == pytest.approx(math.e**0.5, rel=1e-6)


def test_imagenet_names_in_eighty_sentences():
    templates = prompt_templates("openai_imagenet")
    assert len(templates) == 80
    assert templates[0] == "a bad photo of a {}."
    assert all(made == own("{}") for made, own in zip(templates, open_clip.OPENAI_IMAGENET_TEMPLATES, strict=True))
    assert [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES] == prompt_templates("simple_imagenet")
    assert class_names("imagenet", None) == list(open_clip.IMAGENET_CLASSNAMES)
    assert clip(arguments=VIT, class_names="imagenet", num_classes=1000, input_size=32).W.shape == (12, 1000)


def test_names_come_from_the_data_or_from_the_configuration():
    assert class_names(None, ["golden_retriever", "cat"]) == ["golden retriever", "cat"]
    own = tiny(class_names=["a_b", "c", "d"]).classes_are_(["x", "y", "z"])
    assert torch.equal(own.W, tiny(templates=["a photo of a {}."], class_names=["a_b", "c", "d"]).classes_are_().W)
    assert not torch.equal(own.W, tiny().classes_are_(["x", "y", "z"]).W)


def test_without_weights_the_text_encoder_is_always_the_same_and_no_generator_moves():
    torch.manual_seed(3)
    network, other = tiny(), tiny()
    assert not torch.equal(network.visual.proj, other.visual.proj)
    state = torch.get_rng_state()
    weight_EC = network.classes_are_(NAMES).W
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(other.classes_are_(NAMES).W, weight_EC)
    torch.manual_seed(3)
    assert torch.equal(tiny().visual.proj, network.visual.proj)


def test_a_kept_classifier_is_not_made_again(monkeypatch, tmp_path):
    torch.save(donor().state_dict(), tmp_path / "clip.pt")
    torch.save(donor(seed=2).state_dict(), tmp_path / "other.pt")
    told = []
    made = tiny(weights=tmp_path / "clip.pt").classes_are_(NAMES, cache=tmp_path / "cache", say=told.append)
    assert told == ["the classifier is made of 3 names in 1 sentences each, on cpu"]
    module = sys.modules["lowrank_exp.models.clip"]
    monkeypatch.setattr(module, "text_tower", lambda config, state: pytest.fail("made again"))
    again = tiny(weights=tmp_path / "clip.pt").classes_are_(NAMES, cache=tmp_path / "cache", say=told.append)
    assert torch.equal(again.W, made.W)
    assert len(told) == 1
    monkeypatch.undo()
    for options, names in (
        ({"weights": tmp_path / "other.pt"}, NAMES),
        ({"weights": tmp_path / "clip.pt"}, NAMES[::-1]),
        ({"weights": tmp_path / "clip.pt", "templates": ["a {}"]}, NAMES),
        ({}, NAMES),
    ):
        other = tiny(**options).classes_are_(names, cache=tmp_path / "cache")
        assert not torch.equal(other.W, made.W)
    assert len(list((tmp_path / "cache").iterdir())) == 5


# -- a network of ours -------------------------------------------------------------------------------------------------


def test_only_the_image_encoder_is_trained_and_kept(images, tmp_path):
    torch.save(donor().state_dict(), tmp_path / "clip.pt")
    network = tiny(weights=tmp_path / "clip.pt")
    assert network.published.text
    network.classes_are_(NAMES)
    assert network.published.text is None
    assert all(name.startswith("visual.") for name, _ in network.named_parameters())
    assert {name for name in network.state_dict() if not name.startswith("visual.")} == {"W", "scale", "prompts"}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    cross_entropy(network(images), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "visual.conv1.weight" in changed
    assert all(name.startswith("visual.") for name in changed)


def test_a_file_brings_its_classifier_along(images, tmp_path):
    network = tiny().classes_are_(NAMES).eval()
    torch.save(network.state_dict(), tmp_path / "state.pt")
    save(factorize_(network, {"visual.transformer.resblocks.0.mlp.c_fc": 16}, "linear_svd"), tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    assert torch.equal(loaded(images), network(images))
    assert loaded.classes_are_(NAMES) is loaded
    assert torch.equal(tiny(weights=tmp_path / "state.pt").W, network.W)
    with pytest.raises(
        ValueError, match=r"made of other prompts than \['dog', 'cat', 'frog'\] \.\.\. in \['a photo of"
    ):
        loaded.classes_are_(["dog", "cat", "frog"])
    weight_EC = loaded.W.clone()
    torch.save(donor().state_dict(), tmp_path / "clip.pt")
    another = tiny().classes_are_(NAMES)
    load_weights_(another, tmp_path / "clip.pt")  # takes its classifier away: it was of another text encoder
    with pytest.raises(ValueError, match="does not know its classes yet"):
        another(images)
    assert not torch.equal(another.classes_are_(NAMES).W, weight_EC)


def test_without_classes_a_call_is_an_error(images):
    with pytest.raises(ValueError, match=r"does not know its classes yet: call network\.classes_are_"):
        tiny()(images)
    with pytest.raises(ValueError, match="class_names is null and the data give no names"):
        tiny().classes_are_()
    with pytest.raises(ValueError, match=r"2 names of classes, and a classifier of 3: set model\.num_classes=2"):
        tiny().classes_are_(["cat", "dog"])


def test_on_the_meta_device_there_are_shapes():
    with torch.device("meta"):
        network = tiny().classes_are_(NAMES)
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert network.W.is_meta


def test_copies_work_alone(images):
    network = tiny().classes_are_(NAMES).eval()
    assert torch.equal(copy.deepcopy(network)(images), network(images))


# -- what decompositions may replace -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch counts")  # of products outside its layers
@pytest.mark.parametrize(("base", "arguments"), [("ViT-B-32", VIT), ("RN50", RESNET)])
def test_full_rank_keeps_the_logits(base, arguments, images):
    network = tiny(arguments, base).classes_are_(NAMES).eval()
    before = network(images)
    layers = profile(network, images, KINDS)
    refused = {name: layer.refusal for name, layer in layers.items() if layer.refusal}
    if base == "RN50":
        assert refused.keys() == {f"visual.attnpool.{letter}_proj" for letter in "qkvc"}
        reason = "its weight is read by its parent, AttentionPool2d; it is never called itself"
        assert set(refused.values()) == {reason}
    else:
        assert refused.keys() == {f"visual.transformer.resblocks.{i}.attn.out_proj" for i in (0, 1)}
        assert all("output projection of nn.MultiheadAttention" in reason for reason in refused.values())
    full = {name: layer.full_rank for name, layer in layers.items() if not layer.refusal}
    assert all(name.startswith("visual.") for name in full)
    assert len(full) == {"ViT-B-32": 5, "RN50": 19}[base]
    factorize_(network, full, KINDS)
    assert sum(isinstance(module, nn.Sequential) and len(module) == 2 for module in network.modules()) >= len(full)
    assert torch.allclose(network(images), before, atol=1e-4)
    with pytest.raises(ValueError, match=rf"^{next(iter(refused))} cannot be decomposed by linear_svd: "):
        factorize_(network, {next(iter(refused)): 2}, KINDS)


# open_clip's results table: millions of parameters of the image encoder, and GFLOPs of an image (2 per MAC) [V]. Our
# MACs leave out what no layer's call computes: products inside attention, and projections whose weight is only read.
PUBLISHED = {"RN50": (38.32, 12.22, 5_367_226_368), "ViT-B-32": (87.85, 8.82, 2_946_760_704)}


@pytest.mark.filterwarnings("ignore:torch counts")  # of products outside its layers
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    millions, gflops, macs = PUBLISHED[name]
    with torch.device("meta"):
        network = clip(name).eval()
        x = torch.zeros(1, 3, 224, 224)
        assert round(sum(p.numel() for p in network.visual.parameters()) / 1e6, 2) == millions
        with FlopCounterMode(display=False) as counter:
            network.visual(x)
        assert round(counter.get_total_flops() / 1e9, 2) == gflops
        cost = measure(network, x, seconds=0)
        assert cost.macs == macs
        attention = {"RN50": 4 * 2048 * 2048 * 50 - 2048 * 1024 * 50, "ViT-B-32": 12 * 4 * 768 * 768 * 50}[name]
        rest = counter.get_total_flops() / 2 - macs - attention
        assert 0 < rest < 0.02 * macs  # products of queries, keys and values; the last projection of the ViT


# -- weights -----------------------------------------------------------------------------------------------------------


def test_a_tag_stands_for_its_file(monkeypatch, tmp_path):
    model = donor()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    asked = []
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: asked.append(tag) or str(tmp_path / "clip.pt"))
    network = tiny(weights="laion2b_s34b_b79k")
    assert torch.equal(network.visual.proj, model.visual.proj)
    assert asked == [open_clip.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")]
    with pytest.raises(
        ValueError, match=r"with QuickGELU and the network has GELU.* Set model\.name=ViT-B-32-quickgelu"
    ):
        tiny(weights="openai")
    with pytest.raises(
        ValueError, match=r"with GELU and the network has QuickGELU.* Set \+\+model\.arguments\.quick_gelu=fal"
    ):
        tiny(VIT | {"quick_gelu": True}, weights="laion2b_s34b_b79k")
    assert torch.equal(tiny(name="ViT-B-32-quickgelu", weights="openai").visual.proj, model.visual.proj)
    with pytest.raises(
        FileNotFoundError, match=r"'openia' is not a file .*, nor a tag that open_clip has for RN50: it"
    ):
        tiny(RESNET, "RN50", weights="openia")


def test_a_tag_that_cannot_be_fetched(monkeypatch):
    def offline(tag):
        raise FileNotFoundError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(
        FileNotFoundError, match=r"not in the cache of Hugging Face, and to fetch them failed: no network"
    ):
        tiny(weights="laion2b_s34b_b79k")


def test_weights_that_do_not_fit(tmp_path):
    torch.save(donor(size=48).state_dict(), tmp_path / "large.pt")
    with pytest.raises(ValueError, match=r"for images of 48 x 48, the network of 32: set model\.input_size=48"):
        tiny(weights=tmp_path / "large.pt")
    torch.save(donor(RESNET, "RN50", size=64).state_dict(), tmp_path / "large.pt")
    with pytest.raises(ValueError, match=r"for images of 64 x 64, the network of 32: set model\.input_size=64"):
        tiny(RESNET, "RN50", weights=tmp_path / "large.pt")
    with pytest.raises(ValueError, match=r"does not fit ZeroShot \(.* missing: visual\.class_embedding, "):
        tiny(weights=tmp_path / "large.pt")
    state = donor().state_dict()
    torch.save(
        {name: value for name, value in state.items() if name != "ln_final.bias"} | {"x": state["ln_final.bias"]},
        tmp_path / "w.pt",
    )
    network = tiny(weights=tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"do not fit the text encoder \(1 missing: ln_final\.bias; 1 unexpected: x\)"):
        network.classes_are_(NAMES)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@cells(
    ("options", "message"),
    [
        ({"name": "ViT-B-33"}, r"name='ViT-B-33' is not a classification network of open_clip; near it: ViT-B-32"),
        ({"name": "coca_ViT-B-32"}, r"also writes captions \(CoCa\)"),
        (
            {"arguments": VIT | {"depth": 3}},
            r"open_clip does not build a network of .*unexpected keyword argument 'depth'",
        ),
        ({"in_channels": 1}, r"in_channels=1, but CLIP takes 3"),
        (
            {"templates": "cifar"},
            r"templates='cifar', but it must be one of simple, openai_imagenet, simple_imagenet, or",
        ),
        ({"templates": ["a photo"]}, r"templates has 'a photo': every sentence must have \{\} once"),
        ({"templates": ["a {name}"]}, r"templates has 'a \{name\}'"),
        ({"templates": []}, "templates is empty"),
        ({"class_names": "cifar"}, "class_names='cifar', but it must be a list of names, imagenet or null"),
        ({"class_names": ["cat", ""]}, r"class_names=\['cat', ''\]: a list of names is needed, none of them empty"),
        ({"class_names": "imagenet"}, r"class_names has 1000 names and num_classes is 3: set model\.num_classes=1000"),
        ({"arguments": RESNET, "name": "RN50", "input_size": 20}, r"does not take images of 3 x 20 x 20"),
    ],
)
def test_mistakes_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_without_open_clip(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        ValueError, match=r"needs open_clip, which is not installed .*: pip install 'lowrank_exp\[clip\]'"
    ):
        clip()


def test_other_pixels_are_warned_of():
    network = tiny()
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    assert network.warn_of_other_pixels(mean, std) is None
    for wrong in (([0.5], std), (mean, [0.25]), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (None, None)):
        assert (
            "set data.mean=[0.48145466,0.4578275,0.40821073] data.std=[0.26862954,0.26130258,0.27577711]"
            in network.warn_of_other_pixels(*wrong)
        )


# -- jobs --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch counts")  # of products outside its layers
@pytest.mark.slow
def test_a_job_compresses_the_image_encoder_alone(command, capsys, tmp_path):
    torch.save(donor(size=16).state_dict(), tmp_path / "clip.pt")
    model = ["model=clip", f"+model.arguments={json.dumps(VIT)}".replace('"', ""), "model.input_size=16"]
    job = [*SMOKE, *model, f"model.weights={tmp_path / 'clip.pt'}", "method=oneshot", "rank.macs=0.7"]
    assert command(*job) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "the classifier is made of 10 names in 1 sentences each, on cpu" in printed
    assert "warning: data.mean=[0.305, 0.305, 0.305], but this CLIP network was trained on images" in printed
    (path,) = Path(tmp_path / "outputs/runs").glob("*/result.json")
    result = Result.read(path)
    assert 0.69 <= result.phases[-1].macs / sum(layer.macs_before for layer in result.layers) <= 0.71
    assert 0 <= result.phases[-1].accuracy <= 1
    reasons = {layer.name: layer.reason for layer in result.layers if layer.rank is None}
    assert "output projection" in reasons["visual.transformer.resblocks.0.attn.out_proj"]

    dense = tiny(num_classes=10, input_size=16, weights=tmp_path / "clip.pt").classes_are_([str(i) for i in range(10)])
    assert torch.equal(load(path.parent / "model.pt").W, dense.W)

    assert command(*SMOKE, *model, f"model.weights={path.parent / 'model.pt'}", "method=evaluate") == 0
    results = [Result.read(each) for each in Path(tmp_path / "outputs/runs").glob("*/result.json")]
    (evaluated,) = (each for each in results if each.fingerprint != result.fingerprint)
    assert evaluated.phases[-1].accuracy == result.phases[-1].accuracy
