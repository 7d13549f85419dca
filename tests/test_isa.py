"""The same bits on every instruction set: each that this processor has, pinned in a process of its own.

Do not break: one program serves all of them; what it prints may depend on nothing but FASTEMBED_ISA.
"""

import json

import pytest

from fastembed import ops

LAPSES = 18
DIMS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127]
PROGRAM = """
    import hashlib
    import json
    import sys

    import fastembed
    import numpy as np
    import reference as ref
    from fastembed import ops
    from lapses import lapse

    fastembed.set_num_threads(1)
    HYPER = {"learning_rate": 0.1, "momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7}
    HYPER |= {"weight_decay": 0.01, "scale_m": 1.1, "scale_g": 0.9, "scale_v": 1.2, "l1": 0.1, "l2": 0.2}
    HYPER |= {"l2_shrinkage": 0.3, "power": 0.7}
    LAPSE = (0.01, (0.9, 0.99, 0.7), (0.5, -0.25, 0.75, 1.5, -1.0, 0.3))
    V, N, B = 60, 3000, 200
    digests = {"isa": ops.isa}


    def note(name, *arrays):
        if "--one-nan" in sys.argv:
            arrays = [np.where(np.isnan(x), np.nan, x).astype(x.dtype) for x in arrays]
        digests[name] = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


    for d in json.loads(sys.argv[1]):
        rng = np.random.default_rng(d)
        ids, splits = ref.random_ids(rng, N, V), ref.random_splits(rng, N, B)
        ids[rng.random(N) < 0.4] = 5  # more parts than are summed in one go
        # Numbers of all sizes, subnormal ones too: what is rounded, flushed or reordered differs somewhere.
        table = (ref.random_table(rng, V, d) * 10.0 ** rng.integers(-44, 10, (V, d))).astype(np.float32)
        upstream = (rng.standard_normal((N, d)) * 10.0 ** rng.integers(-20, 4, (N, 1))).astype(np.float32)
        weights = rng.uniform(-1, 2, N).astype(np.float32)
        bags = upstream[:B]
        assert 0 < np.abs(table[table != 0]).min() < 1e-38
        table[7, ::3], table[8, ::2] = np.nan, np.inf

        for kind in (np.int32, np.int64):
            note(f"gather {kind.__name__} {d}", ops.gather(table, ids.astype(kind)))
        for combiner in ops.COMBINERS:
            for w, padding_idx in ((None, None), (weights, None), (weights, 5)):
                given = (ids, splits, w, combiner)
                name = f"{combiner} {'weighted' if w is not None else 'plain'} {padding_idx} {d}"
                note(f"pool {name}", ops.pool(table, *given, padding_idx=padding_idx))
                arg = ops.argmax(table, ids, splits, w, padding_idx) if combiner == "max" else None
                parts = ops.parts(ids, bags, splits, w, combiner, padding_idx, arg)
                note(f"reduce {name}", *ops.reduce(parts, ops.group(parts, V)), *([] if arg is None else [arg]))
                if w is not None:
                    gradient = ops.weights_gradient(table, ids, splits, w, combiner, bags, padding_idx)
                    note(f"weights_gradient {name}", gradient)
        columns = np.linspace(0.5, 2, d, dtype=np.float32)
        for step, power in [(step, 0.7) for step in ops.STATES] + [("ftrl", 0.5)]:
            width, hyper = ops.state_width(step, d), {**HYPER, "power": power, "columns": columns}
            stepped, state = table.copy(), np.full((V, width), 1e-3, np.float32) if width else None
            sums = []
            for t in range(3):
                parts = ops.parts(ids, upstream * 0.1**t)
                sums += ops.run([ops.Update(stepped, parts, step, hyper, state, ops.group(parts, V))])
            sums += ops.run([ops.Update(stepped, upstream[:V], step, hyper, state)])
            note(f"{step} {power} {d}", stepped, np.array(sums), *([] if state is None else [state]))
            try:
                lapse(step, stepped, state, HYPER, *LAPSE)
            except ValueError:
                continue  # it has none; how many have one is counted below
            note(f"lapse {step} {d}", stepped, *([] if state is None else [state]))
        for storage in ("bfloat16", "float16", "int8", "int4", "int2"):
            # Halves of all sizes, NaN and infinity too; codes of numbers that are finite.
            half = storage in ("bfloat16", "float16")
            numbers = table if half else np.nan_to_num(table, posinf=1e38)
            coded = ops.zeros((V, d), storage)
            rows = ops.rows_of(coded, dim=d)
            for rounding in (None, ops.Rounding(2**40 + d, 7)):
                ops.encode(rows, numbers, 0, rounding)
                bits = coded.view(np.uint16 if half else np.uint8)
                nan = np.isnan(ops.decode(rows))
                note(f"encode {storage} {rounding is None} {d}", np.where(nan, 0, bits) if half else bits)
            found = [ops.gather(rows, ids)]
            for combiner in ops.COMBINERS:
                found.append(ops.pool(rows, ids, splits, weights, combiner))
            found.append(ops.weights_gradient(rows, ids, splits, weights, "max", bags))
            note(f"look {storage} {d}", *[np.where(np.isnan(x), 0, x) for x in found])
            if not half:
                continue
            for step in ops.STATES:
                width = ops.state_width(step, d)
                ops.encode(rows, table[::-1].copy())
                state = ops.zeros((V, max(width, 1)), "bfloat16")
                ops.encode(state, np.full((V, max(width, 1)), 1e-3, np.float32))
                hyper = {**HYPER, "columns": columns}
                for t in range(3):
                    parts = ops.parts(ids, upstream * 0.1**t)
                    how = {"groups": ops.group(parts, V), "rounding": ops.Rounding(1, t, t) if t else None}
                    ops.run([ops.Update(rows, parts, step, hyper, state if width else None, **how)])
                stepped = [np.where(np.isnan(x := ops.decode(y)), 0, x) for y in (rows, state)]
                note(f"{step} {storage} {d}", *stepped)
        for kind in ("uniform", "normal", "truncated_normal"):
            filled = np.empty((101, d), np.float32)
            ops.fill(filled, kind, -0.7, 0.3, seed=2**40 + d, first_row=2**32 - 50)
            note(f"{kind} {d}", filled)
    print(json.dumps(digests))
"""


@pytest.fixture(scope="module")
def digests():
    """What each instruction set gave; filled by the test below."""
    return {}


@pytest.mark.parametrize("isa", ops.usable_isas())
def test_same_bits(isa, digests, run_python):
    found = json.loads(run_python(PROGRAM, json.dumps(DIMS), FASTEMBED_ISA=isa))
    assert found.pop("isa") == isa
    coded = 5 * 3 + 2 * len(ops.STATES)
    assert len(found) == len(DIMS) * (2 + 12 + 12 + 8 + (len(ops.STATES) + 1) + LAPSES + coded + 3)
    expected = digests.setdefault("first", found)
    assert [name for name in found if found[name] != expected[name]] == []


def test_base_is_always_there():
    assert ops.usable_isas()[-1] == "base"


def test_the_best_one_is_the_default(run_python):
    program = "from fastembed import ops; print(ops.isa)"
    assert run_python(program, FASTEMBED_ISA="").strip() == ops.usable_isas()[0]


@pytest.mark.parametrize("name", ["nobody", "AVX2", "avx2 ", "auto", "0"])
def test_unknown(name, run_python):
    program = """
        try:
            import fastembed
        except ImportError as error:
            print(error)
    """
    expected = f"FASTEMBED_ISA must be one of {ops.usable_isas()} here. Received: FASTEMBED_ISA={name!r}\n"
    assert run_python(program, FASTEMBED_ISA=name) == expected


MODES = """
    import hashlib
    import json

    import fastembed
    import numpy as np
    import reference as ref
    import test_modes
    from fastembed import ops

    digests = {"isa": ops.isa}
    STORED = {7: ("float32", "float32"), 33: ("float32", "float32")}
    STORED |= {9: ("bfloat16", "bfloat16"), 17: ("float16", "float32")}
    for case, mode in test_modes.MODES:
        for d, (storage, state_dtype) in STORED.items():
            rng = np.random.default_rng(d)
            table = fastembed.Table((40, d), storage)
            table.assign(ref.random_table(rng, 40, d))
            table.freeze([3])
            how = {"weight_decay": 0.1, "clipnorm": 3.0, "state_dtype": state_dtype}
            optimizer = test_modes.made(case, untouched=mode, **how)
            for t in range(12):
                ids = ref.random_ids(rng, 20, 3 + 3 * t)
                values = rng.standard_normal((20, d)).astype(np.float32)
                optimizer.apply([fastembed.IndexedSlices(values, ids, (40, d))], [table])
                if t == 4:
                    table.unfreeze([3])
            arrays = [table[[1, 9, 39]], table.numpy(), *optimizer.variables]
            optimizer.catch_up()
            arrays += optimizer.variables
            digests[f"{case} {mode} {d}"] = hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()
    print(json.dumps(digests))
"""


@pytest.fixture(scope="module")
def digests_of_modes():
    """What each instruction set gave; filled by the test below."""
    return {}


@pytest.mark.parametrize("isa", ops.usable_isas())
def test_same_bits_in_all_modes(isa, digests_of_modes, run_python):
    found = json.loads(run_python(MODES, FASTEMBED_ISA=isa))
    assert found.pop("isa") == isa
    assert len(found) > 4 * 60
    expected = digests_of_modes.setdefault("first", found)
    assert [name for name in found if found[name] != expected[name]] == []
