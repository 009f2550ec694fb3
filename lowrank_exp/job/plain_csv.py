"""`metrics.csv` with names of columns that no spreadsheet takes for formulas."""

from collections.abc import Mapping

from pytorch_lightning.loggers import CSVLogger

from lowrank_exp.text.plain_text import as_cell, plain


class PlainCSVLogger(CSVLogger):
    """Lightning's own, but for the names of columns."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({as_cell(plain(name)): value for name, value in metrics.items()}, step)
