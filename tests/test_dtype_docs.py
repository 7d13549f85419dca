"""docs/dtypes.md says what the code does, and what benchmarks/quality.py measured.

Do not break: every line of the page's tables is made here, the bytes from tables of each dtype and the losses from
benchmarks/quality.json, which the script wrote. Examples on the page run in test_docstrings.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import fastembed
from fastembed import dtypes, optimizers

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "dtypes.md").read_text(encoding="utf-8")
MEASURED = ROOT / "benchmarks" / "quality.json"
# The dtype, whether it trains, and the line of the script that stands for it.
DTYPES = [
    ("float32", "yes", "float32"),
    ("float64", "yes", None),  # not measured
    ("bfloat16", "yes", "bfloat16, stochastic"),
    ("float16", "yes", "float16, stochastic"),
    ("int8", "no", "float32, served as int8"),
    ("int4", "no", "float32, served as int4"),
    ("int2", "no", "float32, served as int2"),
]


@pytest.fixture(scope="module")
def results():
    if not MEASURED.parent.exists():
        pytest.skip("away from the checkout there are no benchmarks")
    return json.loads(MEASURED.read_text(encoding="utf-8"))["results"]


def lines_after(head):
    """The lines of the table on the page whose first line starts so."""
    return PAGE.partition(f"\n{head}")[2].partition("\n\n")[0].splitlines()[2:]


def percent(result, name):
    """How much higher the last loss is than float32's, for each seed, in percent."""
    return [100 * (seed[name][-1][0] / seed["float32"][-1][0] - 1) for seed in result["seeds"]]


def thousandths(result, name):
    """How much higher the last MRR or AUC is than float32's, for each seed, in thousandths."""
    return [1000 * (seed[name][-1][1] - seed["float32"][-1][1]) for seed in result["seeds"]]


def spread(values, form):
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def names_of(results):
    """The lines of the script's tables."""
    first = next(iter(results.values()))["seeds"][0]
    return [name for name in first if name not in ("limit", "start")]


def test_there_are_three_seeds(results):
    assert all(len(result["seeds"]) >= 3 for result in results.values())


@pytest.mark.parametrize(
    ("number", "head", "differences", "form"),
    [(0, "| loss:", percent, "+.3f"), (1, "| MRR or AUC:", thousandths, "+.2f")],
    ids=["loss", "metric"],
)
def test_tables_are_those_that_were_measured(results, number, head, differences, form):
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in lines_after(head)}
    assert sorted(lines) == sorted(names_of(results))
    for name, line in lines.items():
        cells = [spread(differences(result, name), form) for result in results.values()]
        if name == "float32":
            exact = [[seed[name][-1][number] for seed in result["seeds"]] for result in results.values()]
            cells = [spread(values, ".4f") for values in exact]
        assert line == f"| {' | '.join([name, *cells])} |"


def test_the_short_table(results):
    lines = lines_after("| dtype | bytes |")
    assert len(lines) == len(DTYPES)
    for line, (dtype, trains, name) in zip(lines, DTYPES, strict=True):
        table = fastembed.Table((10, 64), dtype)
        assert (dtype not in dtypes.QUANTISED) == (trains == "yes")
        means = [f"{np.mean(percent(result, name)):+.3f}" if name else "" for result in results.values()]
        cells = [dtype, str(table.nbytes // 10), trains, *(["0"] * len(means) if name == "float32" else means)]
        assert line == "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def test_bytes_of_adam():
    """Those of the table and its state, for a row of 64."""

    def row(dtype, state_dtype):
        table, adam = fastembed.Table((10, 64), dtype), optimizers.Adam(state_dtype=state_dtype)
        adam.build([table])
        return (table.nbytes + sum(state.nbytes for state in adam.variables)) // 10

    sizes = row("float32", "float32"), row("bfloat16", "float32"), row("bfloat16", "bfloat16")
    words = "takes {} bytes in float32, {} as bfloat16 with float32 state, {} with both in bfloat16"
    assert words.format(*sizes) in " ".join(PAGE.split())


def test_claims_in_words(results):
    """The sentences that read the tables."""
    words = " ".join(PAGE.split())
    for sentence in claims(results):
        assert sentence in words, sentence


def claims(results):
    """Sentences of the page, with their numbers."""
    drifted, words = results["drifted, Adam"], results["words, RowwiseAdagrad"]

    def lost(name):
        """The share of what float32 learned that is missing."""
        shares = []
        for seed in drifted["seeds"]:
            exact, start = seed["float32"][-1][0], seed["start"][0][0]
            shares.append((seed[name][-1][0] - exact) / (start - exact))
        return f"{100 * np.mean(shares):.1f} %"

    def worst(*names):
        return f"{max(max(percent(result, name)) for result in results.values() for name in names):.3f} %"

    yield f"bfloat16 is at most {worst('bfloat16, stochastic')} above float32"
    yield f"and float16 at most {worst('float16, stochastic')}"
    yield f"With the state in bfloat16, too, it is {worst('bfloat16, state too, stochastic')}"
    yield f"loses {lost('bfloat16, nearest')} of what float32 learned"
    yield f"float16 {lost('float16, nearest')}, bfloat16 with stochastic rounding {lost('bfloat16, stochastic')}"
    adam = [
        np.mean(percent(results["clicks, Adam"], f"bfloat16, {rounding}")) for rounding in ("nearest", "stochastic")
    ]
    yield f"loses {adam[0]:.3f} % of the log loss, against {adam[1]:.3f} % with stochastic rounding"
    yield f"is even {-np.mean(percent(words, 'bfloat16, nearest')):.3f} % lower than float32's"
    yield f"costs {np.mean(percent(words, 'bfloat16, state too, nearest')):.3f} % on"
    served = [f"float32, served as {dtype}" for dtype in ("bfloat16", "float16", "int8")]
    yield f"bfloat16, float16 and int8 are within {worst(*served)}"
    yield f"int4 loses up to {worst('float32, served as int4')} (words), int2 up to {worst('float32, served as int2')}"
    yield f"int2 loses {lost('float32, served as int2')} of what those steps had gained"
