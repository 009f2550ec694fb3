"""Where the configuration lies: inside an installed wheel, or beside the package in a checkout."""

from importlib.resources import files
from pathlib import Path

_inside = Path(str(files("lowrank_exp"))) / "conf"

CONF = _inside if _inside.is_dir() else Path(__file__).resolve().parents[2] / "conf"
