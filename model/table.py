"""Write the method tables of docs/methods.md from the registry: ``python -m lemamba.model.table``."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from lemamba.model import build_model, list_models, model_entry

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
SETTINGS = {"pansharpening": (8, 1), "hmif": (31, 3)}  # bands and guide bands of the two parameter columns
_GUIDES = {("pansharpening",): "PAN", ("hmif",): "several bands", ("pansharpening", "hmif"): "any"}


def _parameters(network: nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()):,}"


def method_table(family: str) -> str:
    """Return the Markdown table of a family: "classical" or "learned"."""
    headings = ["method", "paper", "ratios"]
    if family == "learned":
        headings += [f"parameters, {C} bands + {'PAN' if P == 1 else 'RGB'}" for C, P in SETTINGS.values()]
        headings += ["published weights"]
    else:
        headings += ["guide", "in tiles"]
    rows = [headings, ["---"] * len(headings)]
    for entry in map(model_entry, list_models(family=family)):
        row = [entry.name, entry.paper, ", ".join(map(str, entry.ratios))]
        if family == "learned":
            for task, (C, P) in SETTINGS.items():
                arguments = {"img_channel": C, "condition_channel": P, "out_channel": C}
                row.append(_parameters(build_model(entry.name, **arguments)) if task in entry.tasks else "-")
            row.append(entry.published_weights)
        else:
            row.append(_GUIDES[entry.tasks])
            row.append("yes" if entry.traits.tileable else "no")
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def updated(page: str) -> str:
    """Return the page with the tables between its markers written anew."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{method_table(match[2])}{match[3]}"

    return re.sub(r"(<!-- table: (\w+)[^\n]*-->\n).*?(<!-- end of table -->)", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
