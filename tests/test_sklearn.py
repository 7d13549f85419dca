"""EmbeddingTransformer: scikit-learn's own checks, what it learns, and where it runs.

Do not break: what it learns is compared with what it was not told, so a transformer that trains nothing fails.
"""

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import need, peer

import fastembed
from fastembed import Ragged

need("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.model_selection import cross_val_score  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from fastembed.sklearn import EmbeddingTransformer  # noqa: E402


@parametrize_with_checks([EmbeddingTransformer(random_state=0), EmbeddingTransformer(3, epochs=0, min_frequency=2)])
@pytest.mark.filterwarnings("ignore")
def test_checks_of_sklearn(estimator, check):
    """None of them is expected to fail."""
    check(estimator)


def clicks(rng, n=3000, combine=np.add):
    """Users and items with a hidden taste each, and who clicks on what: as both together, or their product, say."""
    users, items = rng.integers(0, 40, n), rng.integers(0, 30, n)
    tastes, kinds = rng.choice([-2.0, 2.0], 40), rng.choice([-2.0, 2.0], 30)
    chances = 1 / (1 + np.exp(-combine(tastes[users], kinds[items])))
    return np.stack([users, items], 1), (rng.random(n) < chances).astype(int)


def test_everything_public_has_a_docstring():
    for name, member in vars(EmbeddingTransformer).items():
        assert name.startswith("_") or inspect.getdoc(member)
    arguments = list(inspect.signature(EmbeddingTransformer).parameters)
    assert [argument for argument in arguments if f"        {argument}: " not in EmbeddingTransformer.__doc__] == []


# ---- columns -------------------------------------------------------------------------------------------------------

COLUMNS = {
    "integers": np.array([5, -7, 5, 2**40, 5]),
    "uint8": np.array([5, 7, 5, 9, 5], np.uint8),
    "floats": np.array([0.5, np.nan, 0.5, -1, 0.5]),
    "strings": np.array(["b", "a", "b", "c", "b"]),
    "objects": np.array(["b", None, "b", 3, "b"], object),
    "bools": np.array([True, False, True, False, True]),
    "days": np.array(["2026-01-02", "NaT", "2026-01-02", "2026-01-01", "2026-01-02"], "M8[D]"),
}


@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
def test_categories(values):
    """Each has its own vector; what is missing or unknown has zeros."""
    X = values.reshape(-1, 1)
    transformer = EmbeddingTransformer(4, random_state=0).fit(X)
    known = {value for value in values.tolist() if value is not None and value == value}
    assert set(transformer.categories_[0].tolist()) == known
    features = transformer.transform(X)
    assert features.dtype == np.float32
    assert features.shape == (5, 4)
    missing = [value is None or value != value for value in values.tolist()]
    assert (features == 0).all(1).tolist() == missing
    table = transformer.layers_[0].embeddings.numpy()
    assert len(table) == len(known) + 1
    for value, row in zip(values.tolist(), features, strict=True):
        at = transformer.categories_[0].tolist().index(value) + 1 if value in known else 0
        assert np.array_equal(row, table[at])
    assert (transformer.transform(np.array([["never seen"]], object)) == 0).all()


def test_categories_are_compared_exactly():
    """Where NumPy would compare as floats, too."""
    transformer = EmbeddingTransformer(2, random_state=0).fit(np.array([[2**62], [2**62 + 1]]))
    rows = transformer.layers_[0].embeddings.numpy()
    for X in (np.array([[2**62 + 1]], np.uint64), np.array([[2**62 + 1]], object)):
        assert np.array_equal(transformer.transform(X), rows[[2]])
    assert (transformer.transform(np.array([[2**62 + 2]], np.uint64)) == 0).all()
    assert np.array_equal(transformer.transform([[2.0**62]]), rows[[1]])


def test_min_frequency():
    X = np.array([["a"], ["b"], ["a"], ["c"], ["a"], ["b"]], object)
    transformer = EmbeddingTransformer(2, min_frequency=2).fit(X, [0, 1, 0, 1, 0, 1])
    assert transformer.categories_[0].tolist() == ["a", "b"]
    assert (transformer.transform([["c"]]) == transformer.transform([["z"]])).all()
    assert (transformer.transform([["c"]]) != 0).any()  # rare ones trained it
    numbers = EmbeddingTransformer(2, min_frequency=3).fit([[1], [2], [1], [1]])
    assert numbers.categories_[0].tolist() == [1]
    assert (EmbeddingTransformer(2, min_frequency=9).fit([[1], [2]]).transform([[1], [3]]) == 0).all()


def test_ids_as_they_are():
    X = np.array([[0, 3], [9, 4]])
    transformer = EmbeddingTransformer([2, 3], input_dim=[10, 5]).fit(X)
    assert transformer.categories_ == [None, None]
    assert transformer.transform(X).shape == (2, 5)
    assert np.array_equal(transformer.transform(X)[:, 2:], transformer.layers_[1](X[:, 1]))
    for make in (lambda: transformer.transform([[0, 5]]), lambda: clone(transformer).fit([[0, 5]])):
        with pytest.raises(IndexError, match=r"must lie in \[0, 5\)"):
            make()
    with pytest.raises(TypeError, match="must be integers"):
        EmbeddingTransformer(input_dim=10).fit(np.array([["a"]], object))


def test_pretrained_vectors():
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    X = np.array([[1, 0], [3, 2]])
    transformer = EmbeddingTransformer(weights=[vectors, vectors[:3, :2]])
    assert np.array_equal(transformer.fit_transform(X), np.concatenate([vectors[X[:, 0]], vectors[X[:, 1], :2]], 1))
    assert np.array_equal(
        EmbeddingTransformer(weights=vectors, epochs=0).fit(X[:, :1], [0, 1]).transform([[2]])[0], vectors[2]
    )
    trained = clone(transformer).fit(X, [0, 1])
    assert (trained.transform(X) != transformer.transform(X)).any()
    assert vectors.ravel().tolist() == list(range(12))  # the argument is as it was


BAD = [
    ({"output_dim": 0}, [[1]], None, "`output_dim` must be a positive integer"),
    ({"output_dim": [2, 3]}, [[1]], None, "`output_dim` must have one entry for each of 1 columns. Received: 2"),
    ({"epochs": -1}, [[1]], None, "`epochs` must be an integer >= 0. Received: epochs=-1"),
    ({"batch_size": 0}, [[1]], None, "`batch_size` must be an integer >= 1"),
    ({"min_frequency": 0}, [[1]], None, "`min_frequency` must be an integer >= 1"),
    ({"hidden_dim": 1.5}, [[1]], None, "`hidden_dim` must be an integer >= 0"),
    ({"target": "ranking"}, [[1]], [1], "`target` must be one of"),
    ({"combiner": "median"}, Ragged([1], [0, 1]), None, "`combiner` must be one of"),
    ({}, [[1], [2]], [[1, 0, 1], [0, 1, 1]], "`y` must be one class or numbers for each sample"),
    ({}, [[1], [2]], [1], "inconsistent numbers of samples"),
    ({}, [[1], [2]], [1, np.nan], "contains NaN"),
]


@pytest.mark.parametrize(("arguments", "X", "y", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_arguments(arguments, X, y, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingTransformer(**arguments).fit(X, y)


# ---- lists and frames ----------------------------------------------------------------------------------------------


def test_ragged():
    lists = Ragged.from_lists([[3, 1], [], [1, 1, 7]])
    transformer = EmbeddingTransformer(4, combiner="sum").fit(lists)
    assert transformer.categories_[0].tolist() == [1, 3, 7]
    features, table = transformer.transform(lists), transformer.layers_[0].embeddings.numpy()
    np.testing.assert_allclose(features, [table[2] + table[1], 0 * table[0], 2 * table[1] + table[3]], rtol=1e-6)
    with pytest.raises(ValueError, match="has 2 features, but EmbeddingTransformer is expecting 1"):
        transformer.transform([[1, 2]])
    with pytest.raises(TypeError, match=r"must have lists in a column that had lists in `fit`. Received: .*1"):
        transformer.transform([[1]])
    with pytest.raises(TypeError, match="must have no lists"):
        EmbeddingTransformer().fit([[1]]).transform(lists)
    words = np.empty((3, 1), object)
    words[:, 0] = [["a", "b"], None, ["a"]]
    transformer.fit(words)
    assert transformer.categories_[0].tolist() == ["a", "b"]
    assert (transformer.transform(words)[1] == 0).all()
    with pytest.raises(TypeError, match="Received: 'a'"):
        transformer.transform(np.array([["a"]], object))


def frames():
    """A frame of each kind with a column of strings, one of integers, and two of lists."""
    data = {"word": ["a", "b", "a"], "id": [3, 4, 4], "ids": [[1, 2], [], [2]], "tags": [["x"], ["y", "x"], []]}
    yield "pandas", lambda: peer("pandas").DataFrame(data)
    yield "pandas of Arrow", lambda: peer("pyarrow").table(data).to_pandas(types_mapper=peer("pandas").ArrowDtype)
    yield "polars", lambda: peer("polars").DataFrame(data)
    yield "arrow", lambda: peer("pyarrow").table(data)


@pytest.mark.parametrize("make", [make for _, make in frames()], ids=[name for name, _ in frames()])
def test_frames(make):
    need("pyarrow")
    X = make()
    transformer = EmbeddingTransformer(2, random_state=0).fit(X, [0, 1, 1])
    assert [known.tolist() for known in transformer.categories_] == [["a", "b"], [3, 4], [1, 2], ["x", "y"]]
    kinds = [type(layer).__name__ for layer in transformer.layers_]
    assert kinds == ["Embedding", "Embedding", "EmbeddingBag", "EmbeddingBag"]
    features = transformer.transform(X)
    assert features.shape == (3, 8)
    assert (features[1, 4:6] == 0).all()  # an empty list
    named = hasattr(transformer, "feature_names_in_")  # scikit-learn looks for names in pandas and Polars
    assert transformer.get_feature_names_out()[[0, 7]].tolist() == (["word_0", "tags_1"] if named else ["x0_0", "x3_1"])


def test_all_frames_give_the_same():
    need("pyarrow")
    found = []
    for name, make in frames():
        need(name.partition(" ")[0].replace("arrow", "pyarrow"))
        found.append(EmbeddingTransformer(2, random_state=0).fit_transform(make(), [0, 1, 1]))
    assert all(np.array_equal(each, found[0]) for each in found)


def test_pandas():
    pd = peer("pandas")
    X = pd.DataFrame({"a": pd.Categorical(["x", None, "y"]), "b": pd.array([1, None, 2], "Int64")})
    transformer = EmbeddingTransformer(2).set_output(transform="pandas").fit(X)
    assert [known.tolist() for known in transformer.categories_] == [["x", "y"], [1, 2]]
    features = transformer.transform(X)
    assert features.columns.tolist() == ["a_0", "a_1", "b_0", "b_1"]
    assert (features.loc[1] == 0).all()
    assert features.index.equals(X.index)
    with pytest.raises(ValueError, match="feature names should match"):
        transformer.transform(X.rename(columns={"a": "c"}))
    with pytest.raises(ValueError, match="0 sample"):
        transformer.transform(X[:0])


def test_polars_output():
    pl = peer("polars")
    X = pl.DataFrame({"a": ["x", None, "y"]})
    features = EmbeddingTransformer(2).set_output(transform="polars").fit_transform(X)
    assert isinstance(features, pl.DataFrame)
    assert features.columns == ["a_0", "a_1"]
    assert features[1].rows() == [(0, 0)]


def test_names():
    transformer = EmbeddingTransformer([1, 2])
    with pytest.raises(NotFittedError):
        transformer.get_feature_names_out()
    transformer.fit([[1, 2]])
    assert transformer.get_feature_names_out().tolist() == ["x0_0", "x1_0", "x1_1"]
    assert transformer.get_feature_names_out(["a", "b"]).tolist() == ["a_0", "b_0", "b_1"]
    with pytest.raises(ValueError, match="length equal to number of features"):
        transformer.get_feature_names_out(["a"])


# ---- what it learns ------------------------------------------------------------------------------------------------


def test_learns_classes(rng):
    """A taste that neither column shows alone; the vectors of those who share it come to lie together."""
    X, y = clicks(rng, combine=np.multiply)
    scores = []
    for epochs in (0, 20):
        transformer = EmbeddingTransformer(2, epochs=epochs, random_state=0).fit(X[:2000], y[:2000])
        assert len(transformer.loss_curve_) == epochs
        model = KNeighborsClassifier(25).fit(transformer.transform(X[:2000]), y[:2000])
        scores.append(model.score(transformer.transform(X[2000:]), y[2000:]))
    assert transformer.loss_curve_[-1] < 0.5 * transformer.loss_curve_[0]
    assert scores[1] > 0.9 > scores[0] + 0.1


def test_learns_numbers(rng):
    X = rng.integers(0, 50, (3000, 2))
    hidden = rng.normal(size=(50, 2))
    y = 100 + 7 * (hidden[X[:, 0], 0] + hidden[X[:, 1], 1])
    for target in (y, np.stack([y, -y], 1)):
        scores = []
        for epochs in (0, 10):
            features = EmbeddingTransformer(2, epochs=epochs, random_state=0).fit(X[:2000], target[:2000])
            model = LinearRegression().fit(features.transform(X[:2000]), target[:2000])
            scores.append(model.score(features.transform(X[2000:]), target[2000:]))
        assert scores[0] < 0.3
        assert scores[1] > 0.95


def test_learns_from_lists(rng):
    words = rng.normal(size=200)
    lists = Ragged.from_row_lengths(rng.integers(0, 200, 20_000), np.full(2000, 10))
    y = np.array([words[row].sum() > 0 for row in lists])
    features = EmbeddingTransformer(2, epochs=20, hidden_dim=0, random_state=0).fit(lists[:1500], y[:1500])
    model = LogisticRegression().fit(features.transform(lists[:1500]), y[:1500])
    assert model.score(features.transform(lists[1500:]), y[1500:]) > 0.85


def test_classes_of_any_kind(rng):
    X, y = rng.integers(0, 5, (200, 1)), rng.integers(0, 3, 200)
    features = EmbeddingTransformer(2, random_state=0).fit(X, y).transform(X)
    for other in (
        np.array(["a", "b", "c"])[y],
        np.array(["a", "b", "c"], object)[y],
        y * 10,
        y.reshape(-1, 1),
        y.tolist(),
    ):
        assert np.array_equal(EmbeddingTransformer(2, random_state=0).fit(X, other).transform(X), features)
    numbers = EmbeddingTransformer(2, target="regression", random_state=0).fit(X, y)
    assert (numbers.transform(X) != features).any()


@pytest.mark.parametrize(
    "optimizer", ["sgd", "RowwiseAdagrad", fastembed.optimizers.Adam(untouched="catch_up")], ids=str
)
def test_optimizers(optimizer, rng):
    """An instance is a pattern: it is not used itself, so that fits do not share its steps."""
    X, y = clicks(rng, 500)
    one = EmbeddingTransformer(2, optimizer=optimizer, learning_rate=0.1, random_state=0).fit(X, y)
    two = clone(one).fit(X, y)
    assert np.array_equal(one.transform(X), two.transform(X))
    assert one.loss_curve_ == two.loss_curve_
    assert getattr(optimizer, "iterations", 0) == 0
    own = EmbeddingTransformer(2, optimizer=optimizer, learning_rate=None, random_state=0).fit(X, y)
    assert own.loss_curve_ != one.loss_curve_


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(dtype, rng):
    X, y = clicks(rng, 300)
    transformer = EmbeddingTransformer(2, dtype=dtype, random_state=0).fit(X, y)
    assert transformer.layers_[0].dtype == dtype
    assert transformer.transform(X).dtype == ("float64" if dtype == "float64" else "float32")


def test_the_same_bits(rng, threads):
    X, y = clicks(rng, 1000)
    found = []
    for number in (1, 2, 7):
        threads(number)
        found.append(EmbeddingTransformer(33, random_state=0).fit(X, y).transform(X))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert (EmbeddingTransformer(33, random_state=1).fit(X, y).transform(X) != found[0]).any()


# ---- where it runs -------------------------------------------------------------------------------------------------


def test_pickle_and_clone(rng):
    X, y = clicks(rng, 300)
    fitted = EmbeddingTransformer(4, random_state=0).fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(X), fitted.transform(X))
    new = clone(fitted)
    assert not hasattr(new, "layers_")
    assert np.array_equal(new.fit(X, y).transform(X), fitted.transform(X))
    assert new.set_params(output_dim=2).fit(X).transform(X).shape == (300, 4)
    assert new.get_params()["output_dim"] == 2


def test_pipeline(rng):
    """On vectors of two numbers a linear model sees little of 40 users, unless they were trained."""
    X, y = clicks(rng)
    scores = []
    for epochs in (0, 10):
        model = make_pipeline(EmbeddingTransformer(2, epochs=epochs, random_state=0), LogisticRegression())
        scores.append(cross_val_score(model, X, y, cv=3).mean())
    assert scores[1] > 0.72  # half of the pairs are a coin each
    assert scores[1] > scores[0] + 0.1


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_grid_search(backend, run_python):
    """In other processes, forked ones too, after threads of this one have worked."""
    program = """
        import sys
        import joblib
        import numpy as np
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline
        from fastembed.sklearn import EmbeddingTransformer

        if __name__ == "__main__":
            rng = np.random.default_rng(0)
            X, y = rng.integers(0, 40, (600, 2)), rng.integers(0, 2, 600)
            model = make_pipeline(EmbeddingTransformer(random_state=0), LogisticRegression())
            grid = {"embeddingtransformer__output_dim": [2, 4], "embeddingtransformer__epochs": [1, 3]}
            alone = GridSearchCV(model, grid, cv=2).fit(X, y)
            with joblib.parallel_backend(sys.argv[1]):
                search = GridSearchCV(model, grid, cv=2, n_jobs=2).fit(X, y)
            print(np.array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]))
    """
    assert run_python(program, backend) == "True\n"


def test_example(tmp_path):
    """What the script prints: the pipeline with embeddings ranks far better."""
    script = Path(__file__).parents[1] / "examples" / "data_frame.py"
    if not script.exists():
        pytest.skip("the tests lie without the examples")
    need("pandas")
    command = [sys.executable, str(script), "--quick"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    plain, embedded = map(float, re.findall(r"AUC ([\d.]+)", printed))
    assert embedded > 0.8 > plain + 0.1
