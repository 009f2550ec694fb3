"""Sums over patches that are never made, against the patches."""

import torch

from lowrank_exp.reconstruct import patch_sums as sums_of_patches
from lowrank_exp.reconstruct.patch_sums import patch_sums
from lowrank_exp.reconstruct.patches import patches_GPD, responses_GPO
from support.cells import cells
from support.layer_cases import LAYERS, filled, images

MORE = {"a kernel higher than the image": (torch.nn.Conv2d(4, 6, (7, 3), padding=(3, 1), stride=(2, 1)), (3, 4, 3, 5))}
MORE |= {"a kernel that reads padding alone": (torch.nn.Conv2d(2, 3, 3, padding=1), (3, 2, 1, 1))}
MORE |= {"far apart": (torch.nn.Conv2d(2, 3, 3, padding=4, dilation=4, stride=3), (2, 2, 7, 7))}


@cells("chunk", [2**26, 1])
@cells(("layer", "shape"), [*LAYERS.values(), *MORE.values()], ids=[*LAYERS, *MORE])
def test_they_are_those_of_the_patches(layer, shape, chunk, monkeypatch):
    x = images(shape)
    with torch.no_grad():
        off = images(filled(layer)(x).shape, seed=3)
    x_GPD, off_GPO = (torch.cat(list(rows), 1) for rows in (patches_GPD(layer, x), responses_GPO(layer, off)))
    with monkeypatch.context() as patched:
        patched.setattr(sums_of_patches, "CHUNK", chunk)
        parts = list(patch_sums(layer, x, off))
        alone = list(patch_sums(layer, x))
    assert sum(one.count for one in parts) == x_GPD.shape[1]
    wanted = {"rows": x_GPD.sum(1), "products": x_GPD.mT @ x_GPD, "beside": off_GPO.mT @ x_GPD}
    for name, value in wanted.items():
        got = sum(getattr(one, name) for one in parts)
        torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum(one.products for one in alone), wanted["products"], rtol=1e-12, atol=1e-12)
    assert {one.beside for one in alone} == {None}


def test_images_in_float32_are_summed_in_float64():
    layer, x = torch.nn.Conv2d(3, 4, 3, padding=1), images((5, 3, 6, 6)).float()
    (sums,) = patch_sums(layer, x)
    x_GPD = next(patches_GPD(layer, x))
    torch.testing.assert_close(sums.products, x_GPD.mT @ x_GPD, rtol=1e-13, atol=1e-13)
    (alone,) = patch_sums(layer, x[0])
    torch.testing.assert_close(alone.products, x_GPD[:, :36].mT @ x_GPD[:, :36], rtol=1e-13, atol=1e-13)
