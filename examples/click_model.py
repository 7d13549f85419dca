"""Trains a model of clicks in PyTorch, whose tables are this library's: DeepFM on categories of millions of ids.

    python examples/click_model.py              2,000,000 rows, about a minute on 2 cores
    python examples/click_model.py --quick      the same in miniature, a few seconds

The data is made here, from a seed: eight fields of ids, a few of them frequent and most of them rare, and clicks that
depend on each id and on pairs of them. So there is a best log loss, that of the chances from which clicks were drawn.

May import: NumPy, torch, fastembed. Do not break: what is printed comes from clicks that were never trained on.
"""

import argparse
import time

import numpy as np
import torch

import fastembed
import fastembed.torch

FIELDS, DIM = 8, 16
BATCH, TEST = 4096, 50_000


class Clicks:
    """Draws ids and clicks. An id has a number of its own, its taste, and a hidden vector; a click's chance grows with
    the sum of the numbers and with how well the vectors of its fields go together."""

    def __init__(self, rows, seed):
        self.rng = np.random.default_rng(seed)
        self.field = rows // FIELDS  # ids in a field
        self.own = self.rng.standard_normal(rows).astype(np.float32) * 0.6
        self.hidden = self.rng.standard_normal((rows, 4)).astype(np.float32) * 0.25

    def draw(self, n):
        """ids (n, FIELDS), clicks (n, 1), and the chances that they were drawn with."""
        ids = (self.rng.random((n, FIELDS)) ** 8 * self.field).astype(np.int64) + np.arange(FIELDS) * self.field
        vectors = self.hidden[ids]
        pairs = (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(1) / 2
        chances = 1 / (1 + np.exp(1.5 - self.own[ids].sum(1) - pairs))
        clicks = (self.rng.random(n) < chances).astype(np.float32)
        return torch.from_numpy(ids), torch.from_numpy(clicks[:, None]), chances


class DeepFM(torch.nn.Module):
    """A number for each id, products of pairs of vectors, and a small network over all vectors.

    Source: Guo et al., DeepFM, 2017.
    """

    def __init__(self, rows):
        super().__init__()
        small = fastembed.initializers.RandomNormal(stddev=0.01, seed=1)
        self.numbers = fastembed.torch.EmbeddingBag(rows, 1, mode="sum", embeddings_initializer="zeros")
        self.vectors = fastembed.torch.Embedding(rows, DIM, embeddings_initializer=small)
        self.network = torch.nn.Sequential(torch.nn.Linear(FIELDS * DIM, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def forward(self, ids):
        vectors = self.vectors(ids)
        pairs = (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True) / 2
        return self.numbers(ids) + pairs + self.network(vectors.flatten(1))


def log_loss(chances, clicks):
    """The mean of -log(the chance of what happened)."""
    return float(-np.log(np.where(clicks > 0.5, chances, 1 - chances)).mean())


def area(scores, clicks):
    """The area under the ROC curve: how often a click has a higher score than none has."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    ones = clicks > 0.5
    return float((ranks[ones].mean() - (ones.sum() + 1) / 2) / (~ones).sum())


def judge(model, ids, clicks):
    """Log loss and area on clicks that were never trained on."""
    with torch.no_grad():
        chances = model(ids).double().sigmoid().numpy()[:, 0]
    return log_loss(chances, clicks.numpy()[:, 0]), area(chances, clicks.numpy()[:, 0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 rows and few steps")
    args = parser.parse_args()
    rows, steps = (20_000, 150) if args.quick else (2_000_000, 1500)
    torch.manual_seed(1)
    data, model = Clicks(rows, seed=1), DeepFM(rows)
    test_ids, test_clicks, best = data.draw(TEST)
    tables = fastembed.torch.Optimizer(model, fastembed.optimizers.Adam(0.003))
    dense = torch.optim.Adam(model.parameters(), 0.001)  # of the tables it sees an anchor, that is always 0
    print(f"before: log loss {judge(model, test_ids, test_clicks)[0]:.4f}")
    seconds = 0.0
    for step in range(1, steps + 1):
        ids, clicks, _ = data.draw(BATCH)
        start = time.perf_counter()
        for optimizer in (tables, dense):
            optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(ids), clicks).backward()
        for optimizer in (tables, dense):
            optimizer.step()
        seconds += time.perf_counter() - start
        if step % (steps // 5) == 0:
            loss, auc = judge(model, test_ids, test_clicks)
            print(f"step {step}: log loss {loss:.4f}, area {auc:.4f}; {seconds / step * 1e3:.1f} ms a step")
    clicks = test_clicks.numpy()[:, 0]
    print(f"the best there is: log loss {log_loss(best, clicks):.4f}, area {area(best, clicks):.4f}")


if __name__ == "__main__":
    main()
