"""ENC's own files: the profiles of a network that its authors measured."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.offer import Cost, Costs, Offer

FILES = ("Net_def.txt", "R_list.txt", "A_norm.txt", "eigenvalue.conf")


def profiles_from_enc(folder: str | os.PathLike) -> dict[str, LayerProfile]:
    """Profiles from the files of ENC, in the order of the index that `eigenvalue.conf` gives its layers.

    `Net_def.txt` has one layer per line: its highest rank r_max in column 2, weights and MACs at r_max in 7 and 8.
    `R_list.txt` and `A_norm.txt` have one layer per column: ranks, and the accuracy where that layer alone is cut to
    them. `eigenvalue.conf` is JSON: the index of every layer, and its singular values up to r_max.

    A layer with r_max counts as the whole of it, as ENC counts: budgets are relative to the sum of all layers at r_max,
    and every layer gets a rank from 1 to r_max. ENC decomposes the first convolution by channel SVD, the others by
    spatial SVD. A rank that was sampled twice, as a layer of few ranks may have it, is one sample; where its accuracies
    differ, their mean is taken, with a warning.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is not what it should be, or the files contradict each other.

    Source: Kim, Khan, Kyung 2019, "Efficient neural network compression"; files `compress/*/base` of the authors' code.

    Differs from the authors' code:
        1. Accuracies are divided by the last one here, where the file leaves that to its readers.
        2. Costs of one rank are exact integers: MACs and weights at r_max must be multiples of r_max.
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}; the files of ENC are {', '.join(FILES)}")
    network, ranks, accuracies = (_table(folder / name) for name in FILES[:3])
    names, spectra = _spectra(folder / "eigenvalue.conf")
    if network.shape[1] < 8:
        raise ValueError(f"{folder / 'Net_def.txt'} needs at least 8 columns, it has {network.shape[1]}")
    columns = {"Net_def.txt": len(network), "R_list.txt": ranks.shape[1], "A_norm.txt": accuracies.shape[1]}
    if set(columns.values()) != {len(names)} or ranks.shape != accuracies.shape:
        raise ValueError(
            f"{folder}: eigenvalue.conf has {len(names)} layers and R_list.txt {len(ranks)} samples, but there are "
            f"{columns} layers, and {len(accuracies)} samples in A_norm.txt"
        )
    return {
        name: _profile(index, name, network[index], spectra[name], ranks[:, index], accuracies[:, index])
        for index, name in enumerate(names)
    }


def _table(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is not a table of numbers: {error}") from error


def _spectra(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Names in network order, and singular values by name: a list, or a list of them for each group."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        index, spectra = content["layer"], content["eigen"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not JSON with `layer` and `eigen`: {error!r}") from error
    if sorted(index.values()) != list(range(len(index))) or index.keys() != spectra.keys():
        raise ValueError(f"{path}: `layer` must number the layers from 0 on, and `eigen` name the same, got {index}")
    return sorted(index, key=index.get), spectra


def _profile(
    index: int, name: str, layer: np.ndarray, spectrum: Any, ranks: np.ndarray, accuracies: np.ndarray
) -> LayerProfile:
    r_max, weights, macs = (round(float(layer[column])) for column in (1, 6, 7))
    if r_max < 1 or weights % r_max or macs % r_max:
        raise ValueError(f"{name}: {weights} weights and {macs} MACs are not those of r_max={r_max} equal ranks")
    values = np.array(spectrum, dtype=np.float64, ndmin=2)
    if values.shape[-1] != r_max:
        raise ValueError(f"{name} has {values.shape[-1]} singular values, and r_max={r_max}")
    samples = [round(float(rank)) for rank in ranks]
    if samples[0] < 1 or np.any(np.diff(samples) < 0) or samples[-1] != r_max:
        raise ValueError(
            f"{name}: the sampled ranks must rise, or repeat, from 1 or more to r_max={r_max}, got {samples}"
        )
    samples, accuracies = _once_each(name, samples, accuracies)
    kind = "linear" if weights == macs else "conv"
    by_index = "channel_svd" if index == 0 else "spatial_svd"
    rungs = np.arange(1, r_max + 1)
    offer = Offer(
        "linear_svd" if kind == "linear" else by_index,
        range(1, r_max + 1),
        Costs(rungs * (macs // r_max), rungs * (weights // r_max)),
        values,
        sampled_ranks=samples,
        sampled_accuracy=accuracies / accuracies[-1],
    )
    return LayerProfile(name, kind, Cost(macs, weights), (offer,), dense_option=False)


def _once_each(name: str, samples: list[int], accuracies: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """The samples without repeats, with the mean accuracy of each."""
    once = tuple(dict.fromkeys(samples))
    measured = {rank: accuracies[np.equal(samples, rank)] for rank in once}
    if differing := {rank: many.tolist() for rank, many in measured.items() if np.ptp(many) > 0}:
        warnings.warn(
            f"{name}: ranks that were sampled more than once have different accuracies, and their mean is taken: "
            f"{differing}",
            stacklevel=4,
        )
    return once, np.array([np.mean(many) for many in measured.values()])
