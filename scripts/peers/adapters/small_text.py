"""small-text: strategies take a classifier, a data set, and the indices of its unlabelled and labelled parts; the pool stands first."""

import numpy as np
from small_text.query_strategies import (
    BALD,
    BreakingTies,
    GreedyCoreset,
    LeastConfidence,
    PredictionEntropy,
    RandomSampling,
)


class Given:
    """A classifier whose answers for any of the data set's rows are set beforehand. A data set is the array of its rows' numbers."""

    def __init__(self, case, point=False):
        n = len(case["log_probs"])
        probs = np.exp(case["point_log_probs" if point else "log_probs"].astype(float))
        blank = np.full((len(case["labeled_features"]), *probs.shape[1:]), 1 / probs.shape[-1])
        self.probs = np.concatenate([probs, blank])  # nobody looks at those of labelled rows
        self.features = np.concatenate([case["features"], case["labeled_features"]]).astype(float)
        self.rows = np.arange(len(self.features))
        self.unlabeled, self.labeled = self.rows[:n], self.rows[n:]

    def predict_proba(self, rows, dropout_sampling=1):
        probs = self.probs[rows]
        return probs.mean(axis=1) if probs.ndim == 3 and dropout_sampling == 1 else probs

    def embed(self, rows, return_proba=False, pbar=None):
        return (self.features[rows], self.predict_proba(rows)) if return_proba else self.features[rows]


def asked(case, strategy, point=False):
    given = Given(case, point)
    y = case["labels"]
    return lambda size: strategy.query(given, given.rows, given.unlabeled, given.labeled, y, n=size)


def least_confidence(case, seed):
    return asked(case, LeastConfidence())


def margin(case, seed):
    return asked(case, BreakingTies())


def entropy(case, seed):
    return asked(case, PredictionEntropy())


def bald(case, seed):
    return asked(case, BALD(dropout_samples=case["log_probs"].shape[1]))


def random(case, seed):
    return asked(case, RandomSampling())


def core_set(case, seed, normalize=False):
    return asked(case, GreedyCoreset(distance_metric="euclidean", normalize=normalize))


def badge(case, seed):
    from small_text.integrations.pytorch.query_strategies import BADGE

    return asked(case, BADGE(case["point_log_probs"].shape[1]), point=True)
