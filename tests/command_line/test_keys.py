"""Every key of the configuration has a kind, and what is not of it is refused by name before anything is imported."""

import copy
import inspect
import math

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.deltas import nest_recipes
from lowrank_exp.command_line.keys.check import check_values
from lowrank_exp.command_line.keys.kinds import SHOWN, Many, Named, Record, Single, Target, anything, either, null, text
from lowrank_exp.command_line.keys.low_rank import ALLOCATE, POLICIES, of_allocate
from lowrank_exp.command_line.keys.phases import OURS
from lowrank_exp.command_line.keys.root import ROOT, TARGETS
from lowrank_exp.command_line.keys.targets import check_packages, check_targets
from lowrank_exp.rank.policy_names import policy_named
from lowrank_exp.training import Recipe
from support.cells import cells
from support.composed import composed, flattened
from support.smoke import SMOKE

ODD = (
    "abc",
    "",
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.5,
    10**30,
    1e300,
    True,
    None,
    [],
    [[1]],
    {"a": 1},
    [math.nan],
)


def container(*overrides):
    return OmegaConf.to_container(flattened(composed(*overrides)))


def singles(kind, key="key"):
    """All single values in a kind."""
    match kind:
        case Single():
            yield key, kind
        case Record():
            for name, inner in kind.keys.items():
                yield from singles(inner, f"{key}.{name}")
        case Many() | Named():
            yield from singles(kind.of, key)
        case Target():
            return
        case _:
            for inner in kind.kinds:
                yield from singles(inner, key)


EVERY = [
    *singles(ROOT, "root"),
    *(
        pair
        for name, kinds in TARGETS.items()
        for key, kind in kinds.items()
        for pair in singles(kind, f"{name}.{key}")
    ),
    *(pair for name in POLICIES for key, kind in of_allocate(name).items() for pair in singles(kind, f"{name}.{key}")),
]


def test_every_single_value_has_an_end_and_refuses_what_is_not_finite():
    assert len(EVERY) > 500
    for key, kind in EVERY:
        if kind is anything:
            continue
        accepted = [value for value in ODD if kind.fits(value)]
        if kind.allowed.startswith("a whole number"):
            assert accepted == [], key
        elif kind.allowed.startswith("a number"):
            assert set(accepted) <= ({1.5, -1, -0.5} if "[-" in kind.allowed else {1.5}), key
        else:
            legal = {"a text": ["abc"], "true or false": [True], "null": [None]}.get(kind.allowed, [])
            assert accepted == legal, key


CHOSEN = ("reconstruct=relu", "pruning=repr", "regularizer=svd_hoyer", "logger=wandb", "method=svd_training")
LEAVES = container(*CHOSEN, "sweeper=optuna")


def leaves(node, key=()):
    if isinstance(node, dict) and node:
        for name, inner in node.items():
            yield from leaves(inner, (*key, name))
    else:
        yield key, node


@cells("group", [name for name in ROOT.keys if name != "method"])
def test_odd_values_of_every_key_are_refused_by_its_name_or_are_legal(group):
    config = copy.deepcopy(LEAVES)
    for key, right in leaves(LEAVES[group], (group,)):
        node = config
        for name in key[:-1]:
            node = node[name]
        for odd in ODD:
            node[key[-1]] = odd
            try:
                check_values(config)
            except ValueError as error:
                said = str(error)
                assert ".".join(key[:-1]) in said, said
                assert "is refused: allowed is" in said or "is read by nobody" in said or "is missing" in said
                continue
            # Accepted: then it is a value that the key's room makes sense of, none that is not finite or without end.
            assert odd in ("abc", True, None, [], {"a": 1}, 1.5, -0.5, -1) or odd == "", (key, odd)
            assert not isinstance(odd, float) or abs(odd) <= 1.5, (key, odd)
        node[key[-1]] = right


# What code gives, and no configuration: names of parameters.
GIVEN = {
    "lowrank_exp.phases.Train": {"until", "pruning"},
    "lowrank_exp.job.loggers": {"identity"},
    "lowrank_exp.training": {"progress"},
    "lowrank_exp.regularizers.ramp": {"progress"},
}


@cells("target", sorted(TARGETS))
def test_keys_of_a_target_are_those_of_its_signature(target):
    parameters = [*inspect.signature(get_object(target)).parameters.values()]
    if "recipe" in [p.name for p in parameters]:  # whose options stand beside it
        parameters += inspect.signature(Recipe).parameters.values()
    given = set().union(*(names for start, names in GIVEN.items() if target.startswith(start)))
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - given
    free = any(p.kind is p.VAR_KEYWORD for p in parameters)
    keys = set(TARGETS[target]) - {"*"}
    told = f"{target} and lowrank_exp/command_line/keys/ differ: add a line there for each new key"
    assert named <= keys if free else named == keys, told


def test_keys_of_a_rank_policy_are_those_of_its_signature():
    for name, kinds in POLICIES.items():
        parameters = set(list(inspect.signature(policy_named(name)).parameters)[1:])
        assert set(kinds) == parameters - {"score"}, f"{name}: add a line to lowrank_exp/command_line/keys/low_rank.py"
    allocate = inspect.signature(get_object("lowrank_exp.rank.allocate")).parameters
    assert set(ALLOCATE) == set(allocate) - {"layers", "score", "options"}


REFUSED = {
    "+training.epoch=3": "training.epoch is read by nobody. Did you mean training.epochs?",
    "+trainng.epochs=3": "trainng is read by nobody. Did you mean training",
    "+store.exactly=true": "store.exactly is read by nobody. Did you mean store.exact?",
    "+pruning.P=0.3": "pruning.P is called pruning.share now: type that",
    "+paths.outputss=x": "paths.outputss is read by nobody. Did you mean paths.outputs?",
    "+reconstruct.fitt=null": "reconstruct.fitt is read by nobody. Did you mean reconstruct.fit?",
    "++seeed=3": "seeed is read by nobody. Did you mean seed",
    "+rank.share=0.9": "rank.share is read by nobody",
    "+method.phases.finetun.epochs=3": "method.phases.finetun is read by nobody. Did you mean method.phases.finetune?",
    "+method.phases.recalibrate.images=3": "Did you mean method.phases.recalibrate.max_images?",
    "+model.widht=0.5": "model.widht is read by nobody",
    "+latency.second=1": "Did you mean latency.seconds?",
    "progress=maybe": "progress=maybe is refused: allowed is true or false. Write for instance progress=true",
    "dry_run=perhaps": "dry_run=perhaps",
    "training.optimizer.nesterov=maybe": "training.optimizer.nesterov=maybe",
    "training.optimizer.lr=fast": "training.optimizer.lr=fast is refused: allowed is a number in [0, 1000]",
    "finetune.optimizer.lr=nan": "finetune.optimizer.lr=nan",
    "training.augment=abc": "training.augment=abc",
    "training.epochs=1e20": "=1e+20 is refused: allowed is a whole number of at least 0, at most 1,000,000",
    "training.epochs='3'": "training.epochs='3' is refused",
    "training.exempt=null": "training.exempt=null is refused: allowed is a list, each a text",
    "latency.seconds=-1": "latency.seconds=-1",
    "latency.seconds=nan": "latency.seconds=nan",
    "latency.seconds=inf": "latency.seconds=inf",
    "latency.seconds=true": "latency.seconds=true",
    "latency.batch_size=0": "latency.batch_size=0",
    "latency.batch_size=1000000": "latency.batch_size=1000000",
    "evaluation.batch_size=0": "evaluation.batch_size=0",
    "method.phases.recalibrate.batch_size=0": "method.phases.recalibrate.batch_size=0",
    "method.phases.factorize.measure.images=0": "method.phases.factorize.measure.images=0",
    "method.phases.factorize.measure.quality=foo": "allowed is one of accuracy, loss",
    "method.phases.factorize.measure.gradients=0": "method.phases.factorize.measure.gradients=0",
    "data.mean=[a]": "data.mean=['a'] is refused: allowed is a list of 1 or 3, each a number in [0, 1]",
    "data.std=[inf]": "data.std=[inf]",
    "data.crop_padding=100000": "data.crop_padding=100000",
    "threads=1000000": "threads=1000000",
    "pruning.updates=1000000": "pruning.updates=1000000",
    "pruning.how=foo": "pruning.how=foo is refused: allowed is one of sum, mean, max, first",
    "tags=[[1]]": "tags=[[1]]",
    "paths.cache=null": "paths.cache=null is refused: allowed is a text",
    "latency.batch_size=[]": "or a list of one or more, each a whole number of at least 1, at most 10,000",
    "latency.batch_size=[1,0]": "latency.batch_size=[1, 0]",
    "latency.threads=0": "latency.threads=0",
    "latency.runtime=3": "latency.runtime=3 is refused: allowed is a text, or null",
    "latency=null": "latency=null is refused: allowed is a mapping of batch_size, seconds, runtime, threads",
    "~logger": "logger is missing",
    "~evaluation": "evaluation is missing",
}


@cells("override", REFUSED)
def test_override_is_refused(override):
    with pytest.raises(
        ValueError, match=r"is refused|is missing|is read by nobody|cannot be imported|is called"
    ) as refused:
        check_values(container(override))
    assert REFUSED[override] in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["pruning=sfp", "pruning.share=0"], "pruning.share=0 is refused: allowed is a number in (0, 1)"),
        (["decomposition=biclustering", "decomposition.conv.restarts=0"], "decomposition.conv.restarts=0"),
        (["decomposition=cp", "decomposition.conv.max_seconds=nan"], "decomposition.conv.max_seconds=nan"),
        (["regularizer=svd_l1", "regularizer.terms.l1.weight=-1"], "regularizer.terms.l1.weight=-1"),
        (["logger=wandb", "+logger.tag=x"], "logger.tag is read by nobody"),
    ],
)
def test_override_of_an_option_is_refused(overrides, expected):
    with pytest.raises(
        ValueError, match=r"is refused|is missing|is read by nobody|cannot be imported|is called"
    ) as refused:
        check_values(container(*overrides))
    assert expected in str(refused.value)


def test_a_message_shows_the_beginning_of_a_long_value():
    with pytest.raises(ValueError, match=r"progress=x+\.\.\. \(9,999 letters\) is refused") as refused:
        check_values(container(f"progress={'x' * 9999}"))
    assert len(str(refused.value)) < SHOWN + 200


@cells(
    "overrides",
    [
        ["+training.optimizer.maximize=true"],
        ["training.optimizer._target_=torch.optim.Adagrad", "+training.optimizer.initial_accumulator_value=0.1"],
        ["rank.ranks={conv1: 4, re\\:fc.*: null}", "rank.rules={conv2: {max: 5}}"],
        ["rank=fixed", "rank.ranks=plan.yaml"],
        ["scale=smoke", "method=evaluate"],
        ["rank.policy=my_package.my_policy", "+rank.option=1"],
        ["+method.phases.again={_target_: lowrank_exp.phases.Evaluate}", "method.order=[train,again]"],
        ["+method.phases.mine={_target_: package.Phase, options: {anything: [1, x]}}"],
        ["+decomposition.layers.conv1._target_=lowrank_exp.decomposition.ChannelSVD"],
        ["training.stochastic_depth={last: 0.8}", "training.quant_noise={phi: int8, p: 0.5}"],
        ["training.distill={teacher: initial}"],
        ["+mine.rate=0.1", "training.optimizer.lr=${mine.rate}"],
        ["model=hub", "+model.arguments.dropout=0.1"],
        ["method=agree", "~method.phases.agree.criteria.random"],
        [
            "pruning/criterion=weighted_sum",
            "+pruning.criterion.criteria.apoz._target_=lowrank_exp.pruning.criteria.APoZ",
        ],
        ["~training.optimizer.momentum", "training.optimizer.nesterov=false"],
    ],
)
def test_legal_overrides_are_let_through(overrides):
    cfg = composed(*overrides)
    check_values(OmegaConf.to_container(flattened(cfg)), OmegaConf.to_container(cfg, resolve=False))


class Network:
    """Stands in for a network of a user's own."""

    def __init__(self, num_classes, width=1):
        self.num_classes, self.width = num_classes, width


class Open:
    """Takes anything."""

    def __init__(self, **anything):
        self.anything = anything


def test_phases_of_ours_are_those_of_the_methods():
    methods = [OmegaConf.load(path).get("phases", {}) for path in (CONF / "method").glob("*.yaml")]
    assert set(OURS) == {name for phases in methods for name in phases}


HERE = f"{__name__}."


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            {"_target_": f"{HERE}Network", "num_classes": 10, "widht": 2},
            "model.widht is read by nobody. Did you mean model.width?",
        ),
        ({"_target_": f"{HERE}Network", "width": 2}, f"model.num_classes is missing: {HERE}Network needs num_classes"),
        ({"_target_": f"{HERE}Netwrok"}, "model._target_"),
        ({"_target_": "nowhere.Net"}, "No module named 'nowhere'"),
    ],
)
def test_targets_of_ones_own_are_checked_by_their_signature(node, expected):
    with pytest.raises(
        ValueError, match=r"is refused|is missing|is read by nobody|cannot be imported|is called"
    ) as refused:
        check_targets({"model": node})
    assert expected in str(refused.value)


def test_targets_are_let_through():
    check_targets({"model": {"_target_": f"{HERE}Network", "num_classes": 10, "weights": None}})
    check_targets({"model": {"_target_": f"{HERE}Open", "foo": 10, "bar": 1}})
    config = container("+training.optimizer.maximize=true")
    check_targets(nest_recipes(config))
    config["training"]["optimizer"]["maximise"] = True
    with pytest.raises(ValueError, match=r"training\.optimizer\.maximise is read by nobody\. Did you mean"):
        check_targets(nest_recipes(config))


def test_optimizer_with_keys_of_another_one():
    config = container("training.optimizer._target_=torch.optim.AdamW")
    with pytest.raises(ValueError, match=r"torch\.optim\.AdamW does not take momentum"):
        check_targets(nest_recipes(config))


def test_kinds():
    kind = either(null, text, Many(text, (2,)))
    assert [kind.fits(value) for value in (None, "a", "", ["a", "b"], ["a"], 1)] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    assert kind.example == "name"
    assert kind.allowed == "null, or a text, or a list of 2, each a text"


@pytest.mark.parametrize(
    "override", ["+training.epoch=3", "training.optimizer.lr=fast", "~regularizer", "data.root=~x/y"]
)
def test_nothing_is_trained_or_written_to_the_store(command, tmp_path, capfd, override):
    assert command(*SMOKE, "method=train", override) == 1
    said = capfd.readouterr().err.partition("error: ")[2]
    expected = {"~regularizer": "regularizer is missing", "data.root=~x/y": "cannot be read"}
    assert expected.get(override, override.strip("+").partition("=")[0]) in said
    assert "Traceback" not in said
    assert not (tmp_path / "outputs/store").exists()


def test_a_package_that_is_not_there_is_told_without_an_import():
    told = r"model\._target_='?no_such\.Thing'? cannot be imported: ModuleNotFoundError: No module named 'no_such'"
    with pytest.raises(ValueError, match=told):
        check_packages({"model": {"_target_": "no_such.Thing"}, "data": {"_target_": "torch.nn.Nothing"}})
    check_packages({"data": {"_target_": "torch.nn.Nothing"}, "model": {"_target_": "int"}})
