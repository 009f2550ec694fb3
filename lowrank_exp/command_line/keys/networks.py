"""Keys of data sets and networks."""

from lowrank_exp.command_line.keys import kinds as k

BYTES = 2**60
SEEDS = 2**63 - 1
SIDE = 10_000  # pixels

_DATA: dict[str, k.Kind] = {
    "num_classes": k.or_null(k.whole(1)),
    "validation": k.number(0, 1, below=True),
    "split_seed": k.whole(0, SEEDS),
    "crop_padding": k.whole(0, SIDE),  # at most the images' smaller side: see ImageData
    "flip": k.boolean,
    "cutout": k.whole(0, SIDE),  # the same
    "mean": k.many(k.number(0, 1), 1, 3),
    "std": k.many(k.number(0, 1000, above=True), 1, 3),
    "image_size": k.either(k.null, k.whole(1, SIDE), k.many(k.whole(1, SIDE), 2)),
    "channels": k.or_null(k.one_of(1, 3)),
    "resize_short": k.or_null(k.whole(1, SIDE)),
    "train_view": k.one_of("whole", "random_crop", "random_resized_crop"),
    "test_view": k.one_of("whole", "center_crop", "ten_crop"),
    "channel_order": k.one_of("rgb", "bgr"),
    "cache_dir": k.or_null(k.text),
    "memory_limit": k.whole(1, BYTES),
    "progress": k.boolean,
    "batch_size": k.whole(1),
    "seed": k.whole(0, SEEDS),
}
_FILES = _DATA | {"root": k.or_null(k.text)}
_FETCHED = _FILES | {"download": k.boolean}
_STREAMED = _FILES | {
    "in_memory": k.one_of("auto", "always", "never"),
    "workers": k.or_null(k.whole(0, 1024)),
    "prefetch": k.whole(1, 1000),
    "cache_limit": k.or_null(k.whole(0, BYTES)),
}

DATA = {
    "lowrank_exp.data.Digits": _DATA | {"test": k.number(0, 1, above=True, below=True)},
    "lowrank_exp.data.FakeData": _DATA
    | {
        "num_classes": k.whole(2),
        "train_images": k.whole(2, 10**8),
        "test_images": k.whole(1, 10**8),
        "image_seed": k.whole(0, SEEDS),
    },
    "lowrank_exp.data.CIFAR10": _FETCHED,
    "lowrank_exp.data.CIFAR100": _FETCHED,
    "lowrank_exp.data.MNIST": _FETCHED,
    "lowrank_exp.data.FashionMNIST": _FETCHED,
    "lowrank_exp.data.Flowers102": _FETCHED,
    "lowrank_exp.data.SVHN": _FETCHED | {"extra": k.boolean},
    "lowrank_exp.data.ImageFolder": _STREAMED | {"name": k.or_null(k.text), "test_folder": k.text},
    "lowrank_exp.data.ImageNet": _STREAMED,
}

WEIGHTS = k.or_null(k.text)  # of every network, also of one whose constructor does not take it

_NETWORK: dict[str, k.Kind] = {
    "num_classes": k.or_null(k.whole(1)),
    "in_channels": k.whole(1, SIDE),
    "input_size": k.whole(1, SIDE),
    "weights": WEIGHTS,
}
_WIDE = _NETWORK | {"width": k.number(0, 100, above=True)}

MODELS = {
    "lowrank_exp.models.lenet5": _WIDE,
    "lowrank_exp.models.lenet_300_100": _WIDE,
    "lowrank_exp.models.alexnet": _WIDE | {"groups": k.whole(1, SIDE)},
    "lowrank_exp.models.alexnet_torchvision": _WIDE,
    "lowrank_exp.models.vgg": _WIDE
    | {
        "depth": k.one_of(11, 13, 16, 19),
        "batch_norm": k.boolean,
        "bias": k.boolean,
        "head": k.one_of("cifar", "cifar512", "cifar512x2", "imagenet"),
    },
    "lowrank_exp.models.resnet": _WIDE
    | {"depth": k.one_of(18, 34, 50, 101, 152), "stem": k.one_of("cifar", "imagenet")},
    "lowrank_exp.models.cifar_resnet": _WIDE
    | {
        "depth": k.or_null(k.whole(1, SIDE)),
        "shortcut": k.one_of("a", "b"),
        "block": k.one_of("basic", "bottleneck"),
        "blocks_per_stage": k.or_null(k.whole(1, SIDE)),
    },
    "lowrank_exp.models.vanilla_cnn": _NETWORK
    | {"convolutions": k.whole(1, SIDE), "filters": k.whole(1, SIDE), "batch_norm": k.boolean},
    "lowrank_exp.models.densenet": _NETWORK
    | {
        "depth": k.whole(1, SIDE),
        "growth": k.whole(1, SIDE),
        "bottleneck": k.boolean,
        "reduction": k.number(0, 1, above=True),
    },
    "lowrank_exp.models.spp10": _WIDE,
    "lowrank_exp.models.zeiler_fergus": _WIDE,
    "lowrank_exp.models.hub": _NETWORK
    | {"source": k.one_of("torchvision", "timm"), "name": k.text, "arguments": k.or_null(k.named(k.anything))},
    "lowrank_exp.models.clip": _NETWORK
    | {
        "name": k.text,
        "arguments": k.or_null(k.named(k.anything)),
        "class_names": k.either(k.null, k.text, k.many(k.text)),
        "templates": k.either(k.text, k.many(k.text)),
    },
}
