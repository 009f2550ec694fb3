"""Image folders whose test images lie under another name, and data sets that are asked for by their name."""

import pytest

from lowrank_exp.data import ImageFolder


def loaded(root, **arguments):
    data = ImageFolder(root, cache_dir=None, validation=0.2, **arguments)
    data.setup()
    return data


def test_test_images_from_a_folder_of_another_name(folder):
    usual = loaded(folder)
    (folder / "test").rename(folder / "val")
    other = loaded(folder, test_folder="val")
    assert other.sizes == usual.sizes == {"train": 8, "val": 2, "test": 4}
    assert other.digest == usual.digest
    with pytest.raises(ValueError, match=r"has no folder 'test': expected .*<root>/test/<class>.*it holds train, val"):
        loaded(folder)


def test_messages_name_the_folder_that_is_looked_for(folder):
    with pytest.raises(ValueError, match=r"has no folder 'val': expected .*<root>/val/<class>/<image>; it holds test"):
        loaded(folder, test_folder="val")
    (folder / "test").rename(folder / "val")
    (folder / "val" / "dog").rename(folder / "val" / "wolf")
    with pytest.raises(ValueError, match=r"only in train \['dog'\], only in val \['wolf'\]"):
        loaded(folder, test_folder="val")


def test_missing_data_are_asked_for_by_name(tmp_path):
    arguments = {"name": "ImageNet (ILSVRC-2012)", "test_folder": "val"}
    with pytest.raises(ValueError, match=r"^ImageNet \(ILSVRC-2012\) is not in .*/images .*data.root=<folder>.*/val/"):
        loaded(tmp_path / "images", **arguments)
    with pytest.raises(
        ValueError, match=r"data.root is not set: give the folder of ImageNet \(ILSVRC-2012\), data.root="
    ):
        loaded(None, **arguments)
    with pytest.raises(ValueError, match=r"is not a folder: expected <root>/train/<class>/<image> and <root>/test/"):
        loaded(tmp_path / "images")


@pytest.mark.parametrize("name", ["train", "", None, 3])
def test_a_folder_that_cannot_be_the_test_images(name):
    with pytest.raises(ValueError, match=r"data.test_folder=.*: the name of a folder beside 'train' is needed"):
        ImageFolder("images", test_folder=name)
