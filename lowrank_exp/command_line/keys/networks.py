"""Keys of data sets and networks."""

from lowrank_exp.command_line.keys.kinds import (
    Kind,
    anything,
    boolean,
    either,
    many,
    named,
    null,
    number,
    one_of,
    or_null,
    text,
    whole,
)

BYTES = 2**60
SEEDS = 2**63 - 1
SIDE = 10_000  # pixels

_DATA: dict[str, Kind] = {
    "num_classes": or_null(whole(1)),
    "validation": number(0, 1, below=True),
    "split_seed": whole(0, SEEDS),
    "crop_padding": whole(0, SIDE),  # at most the images' smaller side: see ImageData
    "flip": boolean,
    "cutout": whole(0, SIDE),  # the same
    "mean": many(number(0, 1), 1, 3),
    "std": many(number(0, 1000, above=True), 1, 3),
    "image_size": either(null, whole(1, SIDE), many(whole(1, SIDE), 2)),
    "channels": or_null(one_of(1, 3)),
    "resize_short": or_null(whole(1, SIDE)),
    "train_view": one_of("whole", "random_crop", "random_resized_crop"),
    "test_view": one_of("whole", "center_crop", "ten_crop"),
    "channel_order": one_of("rgb", "bgr"),
    "cache_dir": or_null(text),
    "memory_limit": whole(1, BYTES),
    "progress": boolean,
    "batch_size": whole(1),
    "seed": whole(0, SEEDS),
}
_FILES = _DATA | {"root": or_null(text)}
_FETCHED = _FILES | {"download": boolean}
_STREAMED = _FILES | {
    "in_memory": one_of("auto", "always", "never"),
    "workers": or_null(whole(0, 1024)),
    "prefetch": whole(1, 1000),
    "cache_limit": or_null(whole(0, BYTES)),
}

DATA = {
    "lowrank_exp.data.Digits": _DATA | {"test": number(0, 1, above=True, below=True)},
    "lowrank_exp.data.FakeData": _DATA
    | {
        "num_classes": whole(2),
        "train_images": whole(2, 10**8),
        "test_images": whole(1, 10**8),
        "image_seed": whole(0, SEEDS),
    },
    "lowrank_exp.data.CIFAR10": _FETCHED,
    "lowrank_exp.data.CIFAR100": _FETCHED,
    "lowrank_exp.data.MNIST": _FETCHED,
    "lowrank_exp.data.FashionMNIST": _FETCHED,
    "lowrank_exp.data.Flowers102": _FETCHED,
    "lowrank_exp.data.SVHN": _FETCHED | {"extra": boolean},
    "lowrank_exp.data.ImageFolder": _STREAMED | {"name": or_null(text), "test_folder": text},
    "lowrank_exp.data.ImageNet": _STREAMED,
}

WEIGHTS = or_null(text)  # of every network, also of one whose constructor does not take it

_NETWORK: dict[str, Kind] = {
    "num_classes": or_null(whole(1)),
    "in_channels": whole(1, SIDE),
    "input_size": whole(1, SIDE),
    "weights": WEIGHTS,
}
_WIDE = _NETWORK | {"width": number(0, 100, above=True)}

MODELS = {
    "lowrank_exp.models.lenet5": _WIDE,
    "lowrank_exp.models.lenet_300_100": _WIDE,
    "lowrank_exp.models.alexnet": _WIDE | {"groups": whole(1, SIDE)},
    "lowrank_exp.models.alexnet_torchvision": _WIDE,
    "lowrank_exp.models.vgg": _WIDE
    | {
        "depth": one_of(11, 13, 16, 19),
        "batch_norm": boolean,
        "bias": boolean,
        "head": one_of("cifar", "cifar512", "cifar512x2", "imagenet"),
    },
    "lowrank_exp.models.resnet": _WIDE | {"depth": one_of(18, 34, 50, 101, 152), "stem": one_of("cifar", "imagenet")},
    "lowrank_exp.models.cifar_resnet": _WIDE
    | {
        "depth": or_null(whole(1, SIDE)),
        "shortcut": one_of("a", "b"),
        "block": one_of("basic", "bottleneck"),
        "blocks_per_stage": or_null(whole(1, SIDE)),
    },
    "lowrank_exp.models.vanilla_cnn": _NETWORK
    | {"convolutions": whole(1, SIDE), "filters": whole(1, SIDE), "batch_norm": boolean},
    "lowrank_exp.models.densenet": _NETWORK
    | {
        "depth": whole(1, SIDE),
        "growth": whole(1, SIDE),
        "bottleneck": boolean,
        "reduction": number(0, 1, above=True),
    },
    "lowrank_exp.models.spp10": _WIDE,
    "lowrank_exp.models.zeiler_fergus": _WIDE,
    "lowrank_exp.models.hub": _NETWORK
    | {"source": one_of("torchvision", "timm"), "name": text, "arguments": or_null(named(anything))},
    "lowrank_exp.models.clip": _NETWORK
    | {
        "name": text,
        "arguments": or_null(named(anything)),
        "class_names": either(null, text, many(text)),
        "templates": either(text, many(text)),
    },
}
