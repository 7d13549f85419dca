"""Draws docs/benchmark.png from the JSON files of forward.py and training_step.py.

May import: matplotlib. Do not break: every bar starts at zero and carries its number; where and when it was measured
stands below.

    python benchmarks/plot.py forward.json training_step.json
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, LIMITS = "fastembed", ("random-row read", "read and rewrite rows")
COLORS = {"uniform": "#1f6fb2", "zipf": "#e08a1e"}
PALE = {"uniform": "#a9c6de", "zipf": "#f0d0a5"}
LEFT_OUT = ("out=", "clip")


def panel(axes, work, lines):
    """Horizontal bars, one pair for each contestant, the quickest at the top."""
    names = list(dict.fromkeys(line["contestant"] for line in lines))
    ms = {(line["contestant"], line["ids"]): line["ms"] for line in lines}
    kinds = [kind for kind in COLORS if any(line["ids"] == kind for line in lines)]
    names.sort(key=lambda name: max(ms.get((name, kind), 0) for kind in kinds), reverse=True)
    height = 0.8 / len(kinds)
    longest = max(ms.values())
    for at, name in enumerate(names):
        for number, kind in enumerate(kinds):
            value = ms.get((name, kind))
            if value is not None:
                y = at + height * ((len(kinds) - 1) / 2 - number)
                axes.barh(y, value, height, color=(COLORS if name == OURS else PALE)[kind])
                axes.text(value + longest * 0.01, y, f"{value:.3g}", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == OURS else "normal")
        label.set_fontstyle("italic" if label.get_text() in LIMITS else "normal")
    axes.set_title(work, fontsize=10, loc="left")
    axes.set_xlim(0, longest * 1.15)
    axes.set_xlabel("ms", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="what the scripts wrote with --json")
    default = pathlib.Path(__file__).parents[1] / "docs" / "benchmark.png"
    parser.add_argument("--out", type=pathlib.Path, default=default, help="default docs/benchmark.png")
    args = parser.parse_args()
    contents = [json.loads(pathlib.Path(name).read_text()) for name in args.files]
    works = {}
    for content in contents:
        for line in content["results"]:
            if not line["contestant"].endswith(LEFT_OUT):
                works.setdefault(line["work"], []).append(line)
    rows = -(-len(works) // 2)
    bars = [len({line["contestant"] for line in lines}) for lines in works.values()]
    heights = [1.3 + max(bars[2 * row : 2 * row + 2]) * 0.42 for row in range(rows)]
    figure, grid = plt.subplots(
        rows, 2, figsize=(11, 0.7 + sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(works) :]:
        axes.remove()
    for axes, (work, lines) in zip(grid.flat, works.items(), strict=False):
        panel(axes, work, lines)
    settings, machine = contents[0]["settings"], contents[0]["machine"]
    sizes = "{rows:,} x {dim} float32 table, {bags} bags of {bag_size} ids".format_map(settings)
    figure.suptitle(f"{sizes}: median ms, less is better", fontsize=12, x=0.01, ha="left")
    patches = [plt.Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    figure.legend(patches, [f"{kind} ids" for kind in COLORS], loc="upper right", ncols=2, fontsize=9, frameon=False)
    memory = "every peer on its own table" if settings["own_tables"] else "all on one table in the same memory"
    where = f"{machine['processor']}, {machine['threads']} threads, {machine['date']}"
    note = f"{where}; {memory}; paler: others; italic: the limit of the machine"
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=150)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
