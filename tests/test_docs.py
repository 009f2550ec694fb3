"""The pages: they build without a warning, and what they show is what the repository has."""

import re
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.option_pages import option_names

ROOT = Path(__file__).parents[1]


def test_pages_build_and_have_every_option(tmp_path, caplog):
    """Broken links and pages that no menu names are warnings."""
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build(config)
    assert [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    for page, group in {"ranks": "rank", "decompositions": "decomposition", "pruning": "pruning/criterion"}.items():
        text = (tmp_path / "site" / page / "index.html").read_text(encoding="utf-8")
        for option in option_names([CONF], group):
            assert f">{group}={option}<" in text, option
    ranks = (tmp_path / "site" / "ranks" / "index.html").read_text(encoding="utf-8")
    assert "fraction of the dense MACs that may remain" in ranks
    assert (tmp_path / "site" / "notebooks" / "02_choosing_ranks_0.png").stat().st_size > 1000
    assert (tmp_path / "site" / "reference" / "oneshot_front.png").is_file()


def test_the_readme_is_short_and_what_it_names_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    links = re.findall(r"\]\(([^)#]+)", text)
    paths = re.findall(r"`([\w./]+/[\w./]*|[A-Z]\w+\.?\w*)`", text)
    assert len(links) > 10
    assert [name for name in [*links, *paths] if not (ROOT / name).exists()] == []
