"""What the site shows beside the pages in this folder: API pages, notebooks, the command line, files of the repository.

MkDocs calls the functions named `on_…` while it builds the site (`mkdocs.yml`).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES_OF_THE_REPOSITORY = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "start.md",
}
FILES_OF_THE_REPOSITORY = ("configs/*.yaml", "benchmarks/results/*.json", "LICENSE")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API's pages into the navigation, under the page that introduces them."""
    reference = next(section["Reference"] for section in config.nav if "Reference" in section)
    reference[-1] = {"API": ["api/index.md", *(f"api/{room}.md" for room in rooms())]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages and the repository's files that pages link to."""
    for room, modules in rooms().items():
        files.append(File.generated(config, f"api/{room}.md", content=_api_page(room, modules)))
    for path in sorted((ROOT / "docs/tutorials").glob("*.ipynb")):
        files.remove(files.get_file_from_path(f"tutorials/{path.name}"))
        text, images = notebook_page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    for source, target in PAGES_OF_THE_REPOSITORY.items():
        if files.get_file_from_path(target) is None:
            text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
            for name, page in PAGES_OF_THE_REPOSITORY.items():
                text = text.replace(f"]({name}", f"]({page}")
            files.append(File.generated(config, target, content=text))
    for pattern in FILES_OF_THE_REPOSITORY:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, f"repository/{name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at what the site shows, and fill the pages that are made from the code."""
    source = page.file.src_uri
    if source == "api/index.md":
        markdown += "\n" + "\n".join(f"- [`seqrec_jax.{room}`]({room}.md): {_summary(room)}" for room in rooms())
    if source == "cli.md":
        markdown += "\n" + "\n".join(_verbs())
    return re.sub(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", lambda link: _link(link, source), markdown)


def rooms() -> dict[str, list[str]]:
    """Modules with public names, by room: the first part of their name inside the package."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "seqrec_jax").rglob("*.py")):
        parts = path.relative_to(ROOT / "seqrec_jax").with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and not any(part.startswith("_") for part in parts) and public_names(path):
            found.setdefault(parts[0], []).append(".".join(("seqrec_jax", *parts)))
    return found


def public_names(path: Path) -> list[str]:
    """Names of the public functions and classes that a file defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in defined if not name.startswith("_")]


def notebook_page(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{name}_{len(images)}.png"
                images[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f'<div class="output" markdown>\n![Output of the cell above]({picture})\n</div>')
            elif "text/html" in data:
                html = re.sub(r"<style.*?</style>\s*", "", "".join(data["text/html"]), flags=re.S)
                html = html.replace(' border="1" class="dataframe"', "")
                parts.append(f'<div class="output">\n{re.sub(chr(10) + "+", chr(10), html)}\n</div>')
            else:
                words = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f'<div class="output" markdown>\n\n```text\n{words.rstrip()}\n```\n\n</div>')
    return "\n\n".join(parts) + "\n", images


def _api_page(room: str, modules: list[str]) -> str:
    return f"# seqrec_jax.{room}\n\n" + "\n".join(f"::: {module}\n" for module in modules)


def _summary(room: str) -> str:
    """The first sentence of a room's docstring."""
    folder, file = ROOT / "seqrec_jax" / room / "__init__.py", ROOT / "seqrec_jax" / f"{room}.py"
    path = folder if folder.exists() else file
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return (text or "").split("\n\n")[0].replace("\n", " ")


def _verbs() -> Iterator[str]:
    """What `seqrec <verb> --help` says, for every verb."""
    from seqrec_jax import cli

    os.environ["COLUMNS"] = "96"  # the width of the help
    for verb in cli.VERBS:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            cli.run([verb, "--help"])
        yield f"## {verb}\n\n```text\n{shown.getvalue().strip()}\n```\n"


def _link(link: re.Match[str], source: str) -> str:
    """A link of a page in the repository as the site needs it; links inside the site stay."""
    target, anchor = link[1], link[2] or ""
    if ":" in target:
        return link[0]
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), target))
    if path.startswith("docs/"):
        return f"]({target.removesuffix('.ipynb')}.md{anchor})" if target.endswith(".ipynb") else link[0]
    inside = PAGES_OF_THE_REPOSITORY.get(path, f"repository/{path}")
    return f"]({posixpath.relpath(inside, posixpath.dirname(source) or '.')}{anchor if inside.endswith('.md') else ''})"
