"""How many classes an image folder has, for the configuration: a job is named by the number, not by `null`."""

from hydra.utils import instantiate
from omegaconf import DictConfig


def count_classes_(cfg: DictConfig) -> None:
    """Set `data.num_classes`, and with it the network's, to the number of class folders where it is null; in place.

    Raises:
        ValueError: the folder is missing, or other data, which have to be told.
    """
    data = cfg.get("data")
    if data is not None and "num_classes" in data and data.num_classes is None:
        data.num_classes = instantiate(data).count_classes()
