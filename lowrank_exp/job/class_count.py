"""How many classes an image folder has, for the configuration: a job is named by the number, not by `null`."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from lowrank_exp.files.data_folders import OURS, class_folders, image_folder


def count_classes_(cfg: DictConfig) -> None:
    """Set `data.num_classes`, and with it the network's, to the number of class folders where it is null; in place.

    Raises:
        ValueError: the folder is missing, or other data, which have to be told.
    """
    data = cfg.get("data")
    if data is None or "num_classes" not in data or data.num_classes is not None:
        return
    if data.get("_target_") == f"{OURS}ImageFolder":  # without torch, which a finished job does not need
        test = data.get("test_folder", "test")
        data.num_classes = len(class_folders(image_folder(data.get("root"), test, data.get("name")), test))
    else:
        data.num_classes = instantiate(data).count_classes()
