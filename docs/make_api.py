"""Writes docs/api.md, every public name with its first line, from the source: `python docs/make_api.py`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """# Public names

What each file offers, by room; the docstrings say the shapes, errors and sources. Made from the code by
`python docs/make_api.py`; a test keeps it true.
"""


def page() -> str:
    """The whole page."""
    parts = [HEADER]
    for path in sorted((ROOT / "seqrec_jax").rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        names = _public_names(ast.parse(path.read_text(encoding="utf-8")))
        if names:
            parts += [f"## {module}\n", *(f"- `{name}`: {line}" for name, line in names), ""]
    return "\n".join(parts)


def _public_names(tree: ast.Module) -> list[tuple[str, str]]:
    """Public functions and classes of a module, and the first line of what they say."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((node.name, (ast.get_docstring(node) or "").split("\n")[0]))
    return found


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(page(), encoding="utf-8")
