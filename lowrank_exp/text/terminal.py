"""Terminals that may go away while a job prints, such as `| head`."""

import os

from rich.console import Console

PASSING = "passing"  # of progress: a bar that goes when it has ended


class Terminal(Console):
    """A console that falls silent where nobody reads on; rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with open(os.devnull, "w") as nothing:  # what others still write there, at the latest Python at its end
            os.dup2(nothing.fileno(), self.file.fileno())
