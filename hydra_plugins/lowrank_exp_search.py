"""`sweeper=optuna` where Hydra looks for plugins. Read at every start, so nothing heavy is imported here."""

from collections.abc import Sequence

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Chooses jobs by what earlier ones have reached, see `lowrank_exp.search`."""

    def __init__(self, max_batch_size: int | None = None, params: DictConfig | None = None) -> None:
        """`params`: what an experiment sweeps, by key; `max_batch_size` is of Hydra's own sweeper."""
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra calls it."""
        self.config, self.hydra_context, self.loader = config, hydra_context, hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        """The whole search; ends with its front on the terminal."""
        try:
            from lowrank_exp.search.search import search
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "optuna":
                raise
            raise ValueError("sweeper=optuna needs a package: pip install 'lowrank_exp[search]'") from error

        swept = [f"{key}={value}" for key, value in self.params.items()]
        search(self.config, self.loader, self.launcher, [*swept, *arguments])
