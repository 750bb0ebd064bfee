"""scikit-activeml: query strategies take samples X (pool first, then the labelled ones), labels y (missing for the pool) and a classifier.

The classifier here answers with the given probabilities and features, whatever it is asked, and with the given linear head where
the strategy perturbs the features.
"""

import numpy as np
from skactiveml import pool
from skactiveml.base import SkactivemlClassifier


class Given(SkactivemlClassifier):
    """A fitted classifier whose answers are set beforehand."""

    def __init__(self, classes=None, missing_label=np.nan, cost_matrix=None, random_state=None):
        super().__init__(
            classes=classes, missing_label=missing_label, cost_matrix=cost_matrix, random_state=random_state
        )

    def give(self, n_classes, point=None, features=None, draws=None, weight=None, bias=None):
        self.classes_ = np.arange(n_classes)
        self.given = (point, features, draws, weight, bias)
        return self

    def fit(self, X, y, sample_weight=None):
        raise NotImplementedError

    def predict_proba(self, X, embed=False):
        point, features = self.given[:2]
        return (point, features) if embed else point

    def sample_proba(self, X):
        return self.given[2]

    def predict(self, X):
        weight, bias = self.given[3:]
        return (X @ weight.T + bias).argmax(axis=1)


def samples(case):
    """X and y: the features of the pool, then of the labelled images."""
    X = np.concatenate([case["features"], case["labeled_features"]]).astype(float)
    y = np.full(len(X), np.nan)
    y[len(case["features"]) :] = case["labels"]
    return X, y


def rows(case):
    """X and y where the strategy looks at probabilities only: no labelled sample, one column."""
    n = len(case["log_probs"])
    return np.arange(n, dtype=float)[:, None], np.full(n, np.nan)


def mean(case):
    return np.exp(case["log_probs"].astype(float)).mean(axis=1)


def point(case):
    return np.exp(case["point_log_probs"].astype(float))


def draws(case):
    return np.ascontiguousarray(np.exp(case["log_probs"].astype(float)).swapaxes(0, 1))


def uncertainty(case, seed, method):
    X, y = rows(case)
    probs = mean(case)
    clf = Given().give(probs.shape[1], probs)
    strategy = pool.UncertaintySampling(method=method, random_state=seed)
    return lambda size: strategy.query(X, y, clf, fit_clf=False, batch_size=size)


def least_confidence(case, seed):
    return uncertainty(case, seed, "least_confident")


def margin(case, seed):
    return uncertainty(case, seed, "margin_sampling")


def entropy(case, seed):
    return uncertainty(case, seed, "entropy")


def committee(case, strategy):
    X, y = rows(case)
    probs = draws(case)
    clf = Given().give(probs.shape[2], draws=probs)
    return lambda size: strategy.query(X, y, clf, fit_ensemble=False, batch_size=size)


def query_by_committee(case, seed, method):
    strategy = pool.QueryByCommittee(method=method, sample_predictions_method_name="sample_proba", random_state=seed)
    return committee(case, strategy)


def vote_entropy(case, seed):
    return query_by_committee(case, seed, "vote_entropy")


def variation_ratio(case, seed):
    return query_by_committee(case, seed, "variation_ratios")


def mean_kl(case, seed):
    return query_by_committee(case, seed, "KL_divergence")


def bald(case, seed):
    return committee(case, pool.GreedyBALD(sample_predictions_method_name="sample_proba", random_state=seed))


def batch_bald(case, seed, configurations=40_000):
    strategy = pool.BatchBALD(
        n_MC_samples=configurations, sample_predictions_method_name="sample_proba", random_state=seed
    )
    return committee(case, strategy)


def random(case, seed):
    X, y = samples(case)
    strategy = pool.RandomSampling(random_state=seed)
    return lambda size: strategy.query(X, y, batch_size=size)


def core_set(case, seed):
    X, y = samples(case)
    strategy = pool.CoreSet(random_state=seed)
    return lambda size: strategy.query(X, y, batch_size=size)


def typiclust(case, seed, neighbours=20):
    X, y = samples(case)
    strategy = pool.TypiClust(k=neighbours, random_state=seed)
    return lambda size: strategy.query(X, y, batch_size=size)


def prob_cover(case, seed, radius=None, n_classes=None):
    X, y = samples(case)
    deltas = None if radius is None else [radius]
    strategy = pool.ProbCover(n_classes=n_classes, deltas=deltas, random_state=seed)
    return lambda size: strategy.query(X, y, batch_size=size)


def max_herding(case, seed, scale=1.0, normalize=True):
    X, y = samples(case)
    strategy = pool.MaxHerding(normalize_samples=normalize, metric_dict={"gamma": scale**-2}, random_state=seed)
    return lambda size: strategy.query(X, y, batch_size=size)


def badge(case, seed, bias=True):
    X, y = samples(case)
    features, probs = case["features"].astype(float), point(case)
    if bias:  # the gradient of the bias, which the peer leaves out unless the embedding has a column of ones
        features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    clf = Given().give(probs.shape[1], probs, features)
    strategy = pool.Badge(clf_embedding_flag_name="embed", random_state=seed)
    return lambda size: strategy.query(X, y, clf, fit_clf=False, batch_size=size)


def clue(case, seed):
    X, y = samples(case)
    probs = point(case)
    clf = Given().give(probs.shape[1], probs)
    strategy = pool.Clue(method="entropy", random_state=seed, cluster_algo_dict={"random_state": seed})
    return lambda size: strategy.query(X, y, clf, fit_estimator=False, batch_size=size)


def drop_query(case, seed, draws=3, rate=0.75):
    X, y = samples(case)
    clf = Given().give(len(case["bias"]), weight=case["weight"].astype(float), bias=case["bias"].astype(float))
    strategy = pool.DropQuery(
        dropout_rate=rate, n_dropout_samples=draws, random_state=seed, cluster_algo_dict={"random_state": seed}
    )
    return lambda size: strategy.query(X, y, clf, fit_clf=False, batch_size=size)


def falcun(case, seed, gamma=10):
    X, y = rows(case)
    probs = point(case)
    clf = Given().give(probs.shape[1], probs)
    strategy = pool.Falcun(gamma=gamma, random_state=seed)
    return lambda size: strategy.query(X, y, clf, fit_clf=False, batch_size=size)
