"""docs/optimizers.md says what the code does, and so does the recipe in CONTRIBUTING.md.

Do not break: every line of the page's tables is made here, from what optimizers say of themselves; the numbers 0 in the
column of errors are then held to the bit. Examples on the page run in test_docstrings.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from test_modes import BOUNDS

from fastembed import IndexedSlices, ops, optimizers
from fastembed.optimizers import history

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
# Class, arguments, the step in a few words. All have a learning rate, lr; g is the summed gradient of a row.
ROWS = [
    ("SGD", {}, "w -= lr g"),
    ("SGD", {"momentum": 0.9}, "m = mu m - lr g, w += m"),
    ("SGD", {"momentum": 0.9, "nesterov": True}, "m = mu m - lr g, w += mu m - lr g"),
    ("RMSprop", {}, "v: running mean of g^2; w -= lr g / sqrt(v)"),
    ("RMSprop", {"centered": True}, "less the square of the running mean of g"),
    ("RMSprop", {"momentum": 0.9}, "the move goes through a momentum"),
    ("RMSprop", {"momentum": 0.9, "centered": True}, "both"),
    ("Adam", {}, "m, v: running means of g and g^2, bias-corrected; w -= lr m / sqrt(v)"),
    ("Adam", {"amsgrad": True}, "divides by the largest v so far"),
    ("AdamW", {}, "Adam with weight decay: before each step, w -= lr weight_decay w"),
    ("Adadelta", {}, "steps as large as the last ones were"),
    ("Adagrad", {}, "a += g^2; w -= lr g / sqrt(a)"),
    ("Adamax", {}, "v = max(beta_2 v, abs(g)); w -= lr m / v"),
    ("Adafactor", {}, "a mean of g^2 for each row, and one for each column of the table"),
    ("Nadam", {}, "Adam with Nesterov momentum"),
    ("Ftrl", {}, "w follows from sums of gradients, with l1 and l2"),
    ("Ftrl", {"l2_shrinkage_regularization_strength": 0.1}, "w is in the sum, too"),
    ("Lion", {}, "w -= lr sign(beta_1 m + (1 - beta_1) g)"),
    ("Lamb", {}, "Adam, as long as the weights: by the norms of all rows"),
    ("RowwiseAdagrad", {}, "a += mean(g^2), one a row; w -= lr g / sqrt(a)"),
    ("PartialRowwiseAdam", {}, "Adam with one v a row"),
    ("RowwiseLamb", {}, "Lamb by the norms of the row"),
    ("RowwiseLARS", {}, "momentum; steps in proportion to the norm of the row"),
    ("RowwiseRMSprop", {}, "RMSprop with one v a row"),
]
# The bound of each closed form, by its step: the case of tests/test_modes.py that holds it.
LEAPED = {
    "momentum": "momentum",
    "nesterov": "nesterov",
    "rmsprop_momentum": "rmsprop",
    "rmsprop_centered_momentum": "rmsprop",  # one body
    "adam": "adamw",  # with and without weight decay
    "amsgrad": "amsgrad",
    "adamax": "adamax",
    "nadam": "nadam",
    "lion": "lion",
    "partial_rowwise_adam": "partial",
    "rowwise_lars": "momentum",  # one body
}
STATE_BOUND = 2e-6
every_row = pytest.mark.parametrize(("name", "arguments"), [row[:2] for row in ROWS], ids=str)


def make(name, arguments, **more):
    return getattr(optimizers, name)(0.05, **arguments, **more)


def width(optimizer):
    """The floats of state of a row, in words: "2 d", "d + 1"."""
    sizes = list(ops.STATES[optimizer.step(2)].values())
    wide, one = sizes.count(ops.DIM), sizes.count(ops.ROW)
    words = [f"{wide} d" if wide > 1 else "d"] * (wide > 0) + [str(one)] * (one > 0)
    return " + ".join(words) or "0"


def moves(optimizer):
    """Whether a step without a gradient changes anything of a row."""
    return optimizer.at_rest != "nothing" or optimizer.weight_decay


def catching_up(optimizer):
    """How missed steps are taken, and how far the result may be from "dense"."""
    if "catch_up" not in optimizer.modes:
        return "there is none", ""
    if not moves(optimizer):
        return "nothing to do", "0"
    plan = history.plan(optimizer)
    if plan != history.REPLAY:
        of = ": of the state alone" if optimizer.at_rest == "state" else ""
        of += f", from step {plan.leap_from} on; replayed before" if plan.leap_from > 1 else ""
        if optimizer.at_rest == "state":
            return "closed form" + of, f"{STATE_BOUND:.0e} of the state".replace("e-0", "e-")
        return "closed form" + of, f"{max(BOUNDS[LEAPED[optimizer.step()]]):.0e} of the way".replace("e-0", "e-")
    if optimizer.most_replayed == 1:
        return "replayed: the last one is enough", "0"
    if optimizer.num_passes(2) > 1:  # and follows sums over the table
        return "replayed: of the state alone", f"{STATE_BOUND:.0e} of the state".replace("e-0", "e-")
    return "replayed", "0"


def table_of_optimizers():
    for name, arguments, formula in ROWS:
        optimizer = make(name, arguments)
        label = ", ".join([f"`{name}`", *(f"{key}={value}" for key, value in arguments.items())])
        modes = ", ".join(optimizer.modes) if optimizer.modes != optimizers.arguments.MODES else "all"
        yield f"| {' | '.join([label, width(optimizer), formula, modes, *catching_up(optimizer)])} |"


def table_of_memory():
    """By floats of state a row, for 100,000,000 rows of 64: the GB of the state, and with the table's 25.6."""
    names = {}
    for name, arguments, _ in ROWS:
        optimizer = make(name, arguments)
        label = f"{name} ({', '.join(arguments)})" if arguments else name
        names.setdefault(width(optimizer), (ops.state_width(optimizer.step(2), 64), []))[1].append(label)
    for floats, (at_64, labels) in sorted(names.items(), key=lambda item: item[1][0]):
        gb = at_64 * 4 * 100_000_000 / 1e9
        yield f"| {floats} | {gb:.1f} | {gb + 25.6:.1f} | {', '.join(labels)} |"


def lines_after(head):
    """The lines of the table on the page whose first line starts so."""
    return PAGE.partition(f"\n{head}")[2].partition("\n\n")[0].splitlines()[2:]


def test_all_optimizers_have_a_row():
    assert {name for name, _, _ in ROWS} == set(optimizers.__all__) - {"Optimizer", "LossScaleOptimizer", "get"}


def test_the_page_has_these_tables():
    assert lines_after("| optimizer | state |") == list(table_of_optimizers())
    assert lines_after("| floats |") == list(table_of_memory())


def test_numbers_on_the_page():
    words = " ".join(PAGE.split())
    assert f"`history.TOLERANCE`, {history.TOLERANCE:.0e} of".replace("e-0", "e-") in words
    capacity = history._CAPACITY
    assert f"after {capacity[True]:,} steps (closed form) or {capacity[False]:,} steps (replayed)" in words


@pytest.mark.parametrize(
    ("arguments", "leaped"),
    [({}, True), ({"beta_2": 0.99}, True), ({"beta_2": 0.95}, False), ({"beta_1": 0.999}, False)],
    ids=str,
)
def test_betas_of_adam(arguments, leaped):
    """Which are usual."""
    assert (history.plan(optimizers.Adam(**arguments)) != history.REPLAY) == leaped
    words = "".join(f"`{key}={value}`" for key, value in arguments.items())
    assert words in PAGE


# ---- what the column of errors says --------------------------------------------------------------------------------


def train(optimizer, start_vd, steps=60):
    """Row-sparse gradients; the table and the state, after all rows have caught up."""
    rng, w_vd = np.random.default_rng(3), start_vd.copy()
    for _ in range(steps):
        rows_n = rng.choice(len(w_vd), 3)
        gradient = rng.standard_normal((3, w_vd.shape[1])).astype(np.float32)
        optimizer.apply([IndexedSlices(gradient, rows_n, w_vd.shape)], [w_vd])
    optimizer.catch_up()
    return w_vd, optimizer.state(w_vd)


@every_row
def test_errors(name, arguments):
    """0 is to the bit, the state too; whatever else is close."""
    start_vd = np.random.default_rng(2).uniform(-0.5, 0.5, (30, 5)).astype(np.float32)
    dense_vd, dense = train(make(name, arguments, untouched="dense"), start_vd)
    skip_vd, _ = train(make(name, arguments), start_vd)
    if "catch_up" not in make(name, arguments).modes:
        with pytest.raises(ValueError, match="untouched"):
            make(name, arguments, untouched="catch_up")
        return
    late_vd, late = train(make(name, arguments, untouched="catch_up"), start_vd)
    how, error = catching_up(make(name, arguments))
    if error == "0":
        assert np.array_equal(late_vd, dense_vd)
        assert all(np.array_equal(late[part], dense[part]) for part in dense)
    else:  # what comes of the errors of many missed steps in a training; tests/test_modes.py holds each error
        way = np.abs(dense_vd - start_vd).max()
        assert np.abs(late_vd - dense_vd).max() <= 1e-4 * way + 1e-6
    if how == "nothing to do":
        assert np.array_equal(skip_vd, dense_vd)
    else:
        assert not np.array_equal(skip_vd, dense_vd)


@every_row
def test_errors_of_the_state(name, arguments):
    """Where rows stay and their state decays: of 1, 10 and 200 missed steps."""
    optimizer = make(name, arguments)
    if optimizer.at_rest != "state":
        return
    rng, w_vd, late_vd = np.random.default_rng(2), *[np.zeros((4, 33), np.float32) for _ in range(2)]
    dense, late = make(name, arguments, untouched="dense"), make(name, arguments, untouched="catch_up")
    for rows_n in [[0, 1, 2], *[[1, 2]] * 10, [2], *[[2]] * 189]:
        gradient = IndexedSlices(rng.standard_normal((len(rows_n), 33)), rows_n, w_vd.shape)
        dense.apply([gradient], [w_vd])
        late.apply([gradient], [late_vd])
    before_vd = late_vd.copy()
    late.catch_up()
    assert np.array_equal(late_vd, before_vd)
    for part, expected in dense.state(w_vd).items():
        np.testing.assert_allclose(late.state(late_vd)[part], expected, rtol=STATE_BOUND, atol=1e-37)


def test_lion_goes_on():
    """Its m becomes 0 in closed form, which tells where a row is looked up; in dense steps the last bits stay."""
    found = {}
    for mode in ("dense", "catch_up"):
        w_vd, lion = np.zeros((2, 1), np.float32), optimizers.Lion(0.5, untouched=mode)
        for row in [0] + [1] * 12_000:
            lion.apply([IndexedSlices(np.ones((1, 1)), [row], (2, 1))], [w_vd])
        lion.catch_up()
        found[mode] = [w_vd[0, 0], lion.state(w_vd)["momentum"][0, 0]]
        lion.apply([IndexedSlices(np.ones((1, 1)), [1], (2, 1))], [w_vd])
        lion.catch_up()
        found[mode].append(w_vd[0, 0])
    (w, m, later), (late_w, late_m, late_later) = found["dense"], found["catch_up"]
    assert w == late_w == -6000.5
    assert 0 < m < 1e-43
    assert later == -6001
    assert late_m == 0
    assert late_later == late_w  # it stands still: it was looked up


def test_lion_stops_with_a_small_beta():
    """In dense steps m is 0 after some 150 with beta_2=0.5; the closed form counts more."""
    w_vd, lion = np.zeros((2, 1), np.float32), optimizers.Lion(1.0, beta_2=0.5, untouched="dense")
    for row in [0] + [1] * 300:
        lion.apply([IndexedSlices(np.ones((1, 1)), [row], (2, 1))], [w_vd])
    assert -160 < w_vd[0, 0] < -140


def test_averages_are_of_all_rows():
    """Kept row by row, they are those of a loop over the whole table at every call."""
    rng, w_vd = np.random.default_rng(3), np.ones((30, 5), np.float32)
    sgd, expected_vd = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), np.zeros((30, 5))
    for call in range(40):
        gradient = rng.standard_normal((3, 5)).astype(np.float32)
        sgd.apply([IndexedSlices(gradient, rng.choice(30, 3), w_vd.shape)], [w_vd])
        expected_vd = 0.9 * expected_vd + 0.1 * w_vd if call else w_vd.astype(np.float64)
    np.testing.assert_allclose(sgd.average(w_vd), expected_vd, rtol=1e-5)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def recipe():
    """(file, text) of each code block of CONTRIBUTING.md's recipe."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## A new optimizer")[2]
    return re.findall(r"^\d\. `([^`]+)`.*?```\w+\n(.*?)```", text, re.DOTALL | re.MULTILINE)


in_checkout = pytest.mark.skipif(not (ROOT / "fastembed").is_dir(), reason="needs the sources")


@in_checkout
def test_the_recipe_is_what_the_files_have():
    """Word for word, but for the spaces before a backslash; `...` stands for what is left out."""
    found = recipe()
    assert len(found) == 5
    assert sum(block.count("\n") for _, block in found) <= 40

    def plain(text):
        return re.sub(r" +\\$", "", re.sub(r"(?m)^ +(?=\S)", "", text), flags=re.MULTILINE)

    for file, block in found:
        text = plain((ROOT / file).read_text(encoding="utf-8"))
        for part in re.split(r"(?m)^ *\.\.\.\n", block):
            assert plain(part).strip("\n") in text, f"{file} has no\n{part}"


@in_checkout
def test_the_recipe_is_complete():
    """No other line of the package knows the optimizer, but those that export it."""
    shown = {file for file, _ in recipe()}
    files = [file for kind in ("py", "pyx", "pxi", "[ch]") for file in (ROOT / "fastembed").rglob(f"*.{kind}")]
    files.append(ROOT / "tests" / "reference.py")
    word = re.compile(r"rowwise_?rmsprop", re.IGNORECASE)
    knows = {str(file.relative_to(ROOT)) for file in files if word.search(file.read_text(encoding="utf-8"))}
    assert knows - {"fastembed/_core.c", "fastembed/_core64.c"} == shown | {"fastembed/optimizers/__init__.py"}
