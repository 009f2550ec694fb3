"""What `make docs` makes of the repository itself, so that no page says what the code no longer does.

The first page is the README; `<!-- options: GROUP -->` in a page becomes what the group's files say of its options and
keys; notebooks and the tables measured on real data are pages, too.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from lowrank_exp.command_line.config_path import CONF
from lowrank_exp.command_line.option_pages import Page, option_names, read_page

ROOT = Path(__file__).parents[1]
OPTIONS = re.compile(r"<!-- options: ([\w/ ]+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages and pictures that lie elsewhere in the repository."""

    def add(path: str, content: str | bytes) -> None:
        files.append(File.generated(config, path, content=content))

    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    add("index.md", _linked(readme.replace("](outputs/reference/", "](reference/")))
    for path in sorted((ROOT / "outputs" / "reference").iterdir()):
        if path.suffix in (".md", ".png"):
            add(f"reference/{path.name}", path.read_bytes())
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        add(f"notebooks/{path.stem}.md", text)
        for name, picture in pictures.items():
            add(f"notebooks/{name}", picture)
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The parts of the navigation that stand for a folder."""
    found = {
        "notebooks": sorted(f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")),
        "reference": sorted(f"reference/{path.name}" for path in (ROOT / "outputs" / "reference").glob("*.md")),
    }
    config.nav = [
        {title: found.get(str(value), value) for title, value in one.items()} if isinstance(one, dict) else one
        for one in config.nav or []
    ]
    return config


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Every option of the groups that a page asks for."""
    return OPTIONS.sub(lambda found: "\n\n".join(option_sections(found[1].split())), markdown)


def option_sections(groups: list[str]) -> list[str]:
    """A section for every option of some groups."""
    return [section(read_page(CONF, group, name)) for group in groups for name in option_names([CONF], group)]


def section(page: Page) -> str:
    """What an option is, and a table of its keys."""
    lines = [f"### {page.group}={page.option}", "", f"{_plain(page.what)}"]
    if page.keys:
        lines += ["", "| key | default | what | allowed |", "|---|---|---|---|"]
        lines += [
            f"| `{key.name}` | {f'`{_cell(key.value)}`' if key.value else ''} | {_cell(_plain(key.what))} "
            f"| {_cell(_plain(key.allowed))} |"
            for key in page.keys
        ]
    return "\n".join(lines)


def notebook_page(notebook: dict, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures in it by name."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{name}_{len(pictures)}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![figure {len(pictures)}]({picture})")
            elif shown := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{shown}\n```")
    return "\n\n".join(parts), pictures


def _linked(text: str) -> str:
    """Names of tables and notebooks as links to their pages."""
    return re.sub(r"`outputs/reference/(\w+)\.md`", r"[\1](reference/\1.md)", text)


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\*_<>\[\]{}`])", r"\\\1", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
