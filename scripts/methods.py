"""docs/methods.md: every score, selector and way to forget by its declaration. `make picture` writes it, a test compares it."""

from __future__ import annotations

import inspect
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
HEAD = """# Methods

Every score, every selector and every way to make a model forget, by its declaration (`datumwise methods` prints the same). This
page is written by `python scripts/methods.py`.

*Needs* are signals: `texts`, `words`, `prompts`, `responses`, `labels` and `embedding` come from the ledger alone; the others
from a model, in the fewest passes. *Takes* are a selector's inputs; those in brackets may be left out.
"""


def page() -> str:
    from datumwise import score, select
    from datumwise.forget.methods import METHODS
    from datumwise.forget.modules import MODULE_METHODS

    scores = [s for s in score.methods() if s.room == "score"]
    lines = [
        HEAD,
        f"## Scores ({len(scores)})",
        "",
        "| score | what it answers | needs | higher means | source |",
        "|---|---|---|---|---|",
    ]
    for one in scores:
        needs = ", ".join(f"`{need}`" for need in one.needs)
        lines.append(f"| `{one.name}` | {_cell(one.summary)} | {needs} | {_cell(one.higher)} | {_cell(one.source)} |")
    found = select.catalogue()
    lines += ["", f"## Selectors ({len(found)})", "", "| selector | what it does | takes | source |", "|---|---|---|---|"]
    for name, one in found.items():
        takes = ", ".join(f"[`{t.rstrip('?')}`]" if t.endswith("?") else f"`{t}`" for t in one.takes)
        summary = (inspect.getdoc(one) or "").partition("\n")[0]
        lines.append(f"| `{name}` | {_cell(summary)} | {takes} | {_cell(one.source)} |")
    lines += [
        "",
        f"## Forgetting: language models ({len(METHODS)})",
        "",
        "Each with a loss also with `_gdr`, `_klr` or `_embed`: that term on kept texts is added.",
        "",
        "| method | what it does | source |",
        "|---|---|---|",
        *(f"| `{name}` | {_cell(one.summary)} | {_cell(one.source)} |" for name, one in sorted(METHODS.items())),
        "",
        f"## Forgetting: torch modules ({len(MODULE_METHODS)})",
        "",
        "| method | what it does |",
        "|---|---|",
        *(f"| `{name}` | {_cell(summary)} |" for name, summary in MODULE_METHODS.items()),
        "",
        "scikit-learn estimators: `retrain` (exact) and, linear ones, `newton`; `datumwise.forget.Sisa` around any trainer.",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
