"""How good are the default heads? UAR beside scikit-learn's linear SVM and logistic regression on the same vectors.

    python benchmarks/linear_baselines.py [CORPUS] [--target emotion] [--seeds 5]

Without a corpus it takes emodb_4class from VBX_TEST_CORPORA, or else the synthetic corpus of the demo (its `country`).
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import vbx
from vbx.extract.synthesis import synthesise_corpus


def linear(model: object, vectors: vbx.Vectors, target: str) -> float:
    """UAR on test of a linear model fitted on train (and dev, which it does not need for anything else)."""
    labelled = vectors.labels[target].notna().to_numpy()
    test = (vectors.labels["split"] == "test").to_numpy() & labelled
    train = ~test & labelled
    truth = vectors.labels[target].to_numpy(dtype=object)
    pipeline = make_pipeline(StandardScaler(), model).fit(vectors.x[train], truth[train])
    return float(recall_score(truth[test], pipeline.predict(vectors.x[test]), average="macro"))


def heads(vectors: vbx.Vectors, target: str, seeds: int) -> np.ndarray:
    """UAR on test of the default recipe, one per seed."""
    recipe = vbx.read_recipe("default", overrides={"sweep.seed": list(range(1, seeds + 1))})
    recipe = vbx.with_tasks(recipe, vbx.make_tasks(vectors.schema, [target]))
    results = vbx.train_heads(vbx.expand_runs(recipe), vectors)
    rows = [row for r in results for row in r.rows if (row.split, row.task, row.metric) == ("test", target, "uar")]
    return np.array([row.value for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--target", default="")
    parser.add_argument("--features", nargs="+", default=["egemaps", "compare"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        real = Path(os.environ.get("VBX_TEST_CORPORA", "")) / "emodb_4class"
        synthetic = args.corpus is None and not real.is_dir()
        folder = synthesise_corpus(Path(tmp) / "bursts") if synthetic else args.corpus or real
        target = args.target or ("country" if synthetic else "emotion")
        store, corpus = vbx.Store(args.cache or Path(tmp) / "cache"), vbx.read_corpus(folder)
        vbx.extract_vectors(corpus, args.features, store, device="cpu")
        print(f"{corpus.name}, {target}, UAR on test")
        print(f"{'feature':<12}{'linear SVM':>12}{'logistic':>12}{'vbx heads':>12}{'sd':>8}   ({args.seeds} seeds)")
        for feature in args.features:
            vectors = store.load_vectors(corpus.name, feature)
            svm = linear(LinearSVC(max_iter=20000), vectors, target)
            logistic = linear(LogisticRegression(max_iter=2000), vectors, target)
            ours = heads(vectors, target, args.seeds)
            print(f"{feature:<12}{svm:>12.3f}{logistic:>12.3f}{ours.mean():>12.3f}{ours.std(ddof=1):>8.3f}")


if __name__ == "__main__":
    main()
