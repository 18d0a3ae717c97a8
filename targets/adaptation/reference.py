"""The table of recipes in docs/adaptation.md: ``python -m targets.adaptation.reference docs/adaptation.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from targets.adaptation.recipes import RECIPES

_BEGIN, _END = "<!-- recipes: generated -->\n", "<!-- end of recipes -->\n"


def table() -> str:
    """The recipes as a Markdown table, in the order in which they are carried out."""
    lines = ["| id | version | what it does | applies to | the boot needs it | kept |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{each.id}` | {each.version} | {each.summary} | {each.applies_to} | {'yes' if each.boot_needs else ''} | "
        f"{'no' if each.per_clone else 'yes'} |"
        for each in RECIPES
    ]
    return "\n".join([*lines, ""])


def page(text: str) -> str:
    """The page with the table of today between its marks."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{table()}{_END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(page(path.read_text()))
