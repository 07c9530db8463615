"""Draw F1 by minutes of training, from the figures of `bench_recipes.py`.

python benchmarks/plot_recipes.py                       # docs/recipes.png from benchmarks/results/recipes.json
python benchmarks/plot_recipes.py --output FILE.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contents import RECIPES
from figures import Result
from matplotlib.figure import Figure

from qa_lightning.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PEERS = {"1.1": 66.71, "2.0": 51.16}  # F1 of Hugging Face's Trainer 4.57 with MiniLM; its minutes are not known


def drawn(result: Result, before: Result) -> Figure:
    """One axis for each version of SQuAD; a line goes through the validations of a run and ends at its end.

    Args:
        result: of `bench_recipes.py`.
        before: of runs before there was that script; a variant is its version, and what it is.
    """
    versions = sorted({result.value(variant, "version") for variant in result.variants})
    figure = Figure(figsize=(5.5 * len(versions), 5.6), layout="constrained")
    for version, axis in zip(versions, figure.subplots(1, len(versions), squeeze=False)[0], strict=True):
        axis.axhline(PEERS[version], color="0.5", linestyle="--", linewidth=1)
        across = axis.get_yaxis_transform()  # x as a part of the axis
        axis.text(
            0.02, PEERS[version], "Hugging Face's Trainer, MiniLM", transform=across, va="bottom", fontsize="small"
        )
        for variant in result.variants:
            if result.value(variant, "version") != version:
                continue
            end = (result.median(variant, "minutes"), result.median(variant, "f1"))
            points = [*result.value(variant, "f1_by_minute"), end]
            marker = "s" if result.value(variant, "model") == "MPNet" else "o"
            label = f"{result.value(variant, 'model')}: {RECIPES[variant].split(' (')[0].replace('`', '')}"
            axis.plot(*zip(*((float(x), float(y)) for x, y in points), strict=True), marker=marker, label=label)
        for variant in before.variants:
            if variant.startswith(f"{version} "):
                minutes, f1 = (float(before.median(variant, figure)) for figure in ("minutes", "f1"))
                axis.plot(minutes, f1, "o", fillstyle="none", label=variant.removeprefix(f"{version} "))
        axis.set(title=f"SQuAD v{version}", xlabel="minutes, from start to report", xlim=(0, None))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize="small")  # below, off the lines
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("F1 on the validation articles")
    return figure


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the figures")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "recipes.png")
    options = parser.parse_args()
    try:
        now, before = (Result.read(options.results / f"{name}.json") for name in ("recipes", "recipes-before"))
        drawn(now, before).savefig(options.output, dpi=120)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
