"""Draws docs/benchmark.png from the lines of forward.py and training_step.py, for readme.py.

May import: matplotlib. Do not break: every bar starts at zero and carries its number; where and when it was measured
stands below.
"""

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


def draw(lines, settings, where, out, source):
    """The picture of all races; `source` goes into the file, so that one can tell what it was drawn from."""
    works = {}
    for line in lines:
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
    sizes = "{rows:,} x {dim} float32 table, {bags} bags of {bag_size} ids".format_map(settings)
    figure.suptitle(f"{sizes}: median ms, less is better", fontsize=12, x=0.01, ha="left")
    patches = [plt.Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    figure.legend(patches, [f"{kind} ids" for kind in COLORS], loc="upper right", ncols=2, fontsize=9, frameon=False)
    memory = "every peer on its own table" if settings["own_tables"] else "all on one table in the same memory"
    note = f"{where}, {settings['threads']} threads; {memory}; paler: others; italic: the limit of the machine"
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    figure.savefig(out, dpi=150, metadata={"Source": source})
    print(f"written: {out}")
