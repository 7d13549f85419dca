"""Who clicks on what: embeddings of a data frame's columns in a scikit-learn pipeline.

    python examples/data_frame.py            200,000 rows that the script makes, about half a minute
    python examples/data_frame.py --quick    the same in miniature, a few seconds

A click depends on how a user's hidden tastes fit an item's, and on the item's tags, a column of lists. A linear model
on one-hot columns sees what is popular, not who likes what; on trained embeddings a small model on top sees both.
Models are judged by rows that neither they nor the embeddings have seen.

May import: NumPy, pandas, scikit-learn, fastembed. Do not break: a seed gives the same rows and scores.
"""

import argparse
import time

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from fastembed.sklearn import EmbeddingTransformer

TAGS = [f"tag{number}" for number in range(30)]
TASTES = 3  # hidden numbers of each user and item


def make_rows(rng, rows, users, items):
    """A frame of users, items and the items' tags, and whether they clicked."""
    of_users, of_items = rng.normal(size=(users, TASTES)), rng.normal(size=(items, TASTES))
    popular = rng.normal(size=len(TAGS))
    tags = [rng.choice(len(TAGS), rng.integers(0, 5), replace=False) for _ in range(items)]
    bonus = np.array([popular[these].mean() if len(these) else 0.0 for these in tags])
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    chance = 1 / (1 + np.exp(-2 * (of_users[user] * of_items[item]).sum(1) - bonus[item]))
    frame = pd.DataFrame({"user": [f"u{number}" for number in user], "item": item})
    frame["tags"] = [[TAGS[tag] for tag in tags[number]] for number in item]
    return frame, (rng.random(rows) < chance).astype(int)


def models(seed, epochs):
    """The pipelines by their names."""
    one_hot = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["user", "item"]))
    boosted = HistGradientBoostingClassifier(random_state=seed)
    embeddings = EmbeddingTransformer(output_dim=8, epochs=epochs, min_frequency=2, random_state=seed)
    return {
        "one-hot columns, logistic regression": make_pipeline(one_hot, LogisticRegression(max_iter=1000)),
        "embeddings, boosted trees": make_pipeline(embeddings, boosted),
    }


def main():
    """Trains each model and prints how well it ranks unseen rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small table")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = (20_000, 200, 100) if options.quick else (200_000, 2_000, 1_000)
    X, y = make_rows(np.random.default_rng(options.seed), *sizes)
    print(X.head(3).to_string(index=False))
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=options.seed)
    for name, model in models(options.seed, epochs=5).items():
        start = time.perf_counter()
        model.fit(X_train, y_train)
        score = roc_auc_score(y_test, model.predict_proba(X_test)[:, 1])
        print(f"{name}: AUC {score:.3f}, fitted in {time.perf_counter() - start:.1f} s")
    transformer = model[0].set_output(transform="pandas")
    print(transformer.transform(X_test[:2]).iloc[:, [0, 1, 8, 9, 16, 17]].to_string(index=False))


if __name__ == "__main__":
    main()
