"""What a question alone gives: the error of the best guess without its image, for each suite and kind.

The guess is the answer that a question's words had most often in the training pictures. No model can do better without
the image, but by luck; one that does worse than this with it has not learned to look.

    python benchmarks/blind_guess.py results/data/train results/data/test
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from vlmlaw.data.shards import Dataset


def blind_errors(train: Path, test: Path) -> pd.DataFrame:
    """A row for each suite and kind, and for each whole suite: n questions, error of the best guess."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for record in Dataset(train).records:
        for question, answer in zip(record.questions, record.answers, strict=True):
            seen[question][answer] += 1
    guess = {question: answers.most_common(1)[0][0] for question, answers in seen.items()}
    rows = [
        (record.suite, kind, guess.get(question) != answer)
        for record in Dataset(test).records
        for kind, question, answer in zip(record.kinds, record.questions, record.answers, strict=True)
    ]
    asked = pd.DataFrame(rows, columns=["suite", "kind", "error"])
    both = pd.concat([asked.assign(kind="all"), asked])
    return both.groupby(["suite", "kind"], sort=False).error.agg(["size", "mean"]).round(3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, nargs="?", default=Path("results/data/train"))
    parser.add_argument("test", type=Path, nargs="?", default=Path("results/data/test"))
    given = parser.parse_args()
    print(blind_errors(given.train, given.test).to_string())
