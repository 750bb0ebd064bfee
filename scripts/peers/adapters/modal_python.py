"""modAL: query functions take a classifier, or a committee of learners, and the pool; here they answer with the given probabilities."""

import numpy as np
import torch
from modAL import disagreement, dropout, uncertainty
from modAL.models import ActiveLearner, Committee
from sklearn.base import BaseEstimator


class Given(BaseEstimator):
    """An estimator whose answers are set beforehand."""

    def __init__(self, probs=None):
        self.probs = probs
        if probs is not None:
            self.classes_ = np.arange(probs.shape[1])

    def predict_proba(self, X):
        return self.probs

    def predict(self, X):
        return self.probs.argmax(axis=1)


class GivenNetwork:
    """What modAL asks of a skorch network: each forward pass gives the logits of the next draw."""

    def __init__(self, logits):
        self.module_ = torch.nn.Dropout()
        self.passes = iter(logits.unbind(dim=1))

    def infer(self, X):
        return next(self.passes).clone()


def probs(case):
    return np.exp(case["log_probs"].astype(float))


def pool(case):
    return np.arange(len(case["log_probs"]))[:, None]


def by_classifier(case, rule):
    X, classifier = pool(case), Given(probs(case).mean(axis=1))
    return lambda size: rule(classifier, X, n_instances=size, random_tie_break=True)[0]


def by_committee(case, rule):
    X = pool(case)
    committee = Committee([ActiveLearner(Given(draw)) for draw in probs(case).swapaxes(0, 1)])
    return lambda size: rule(committee, X, n_instances=size, random_tie_break=True)[0]


def by_dropout(case, rule, offsets):
    """Log-probabilities are logits; so they are with an offset for each image, as a network gives them."""
    logits = torch.from_numpy(case["log_probs"])
    if offsets:
        logits = logits + torch.linspace(-2, 2, len(logits))[:, None, None]
    classifier = type("Learner", (), {"estimator": GivenNetwork(logits)})()
    X = torch.zeros(len(logits), 1)
    return lambda size: rule(
        classifier,
        X,
        n_instances=size,
        random_tie_break=True,
        num_cycles=logits.shape[1],
        sample_per_forward_pass=len(X),
    )[0]


def least_confidence(case, seed):
    return by_classifier(case, uncertainty.uncertainty_sampling)


def margin(case, seed):
    return by_classifier(case, uncertainty.margin_sampling)


def entropy(case, seed):
    return by_classifier(case, uncertainty.entropy_sampling)


def vote_entropy(case, seed):
    return by_committee(case, disagreement.vote_entropy_sampling)


def consensus_entropy(case, seed):
    return by_committee(case, disagreement.consensus_entropy_sampling)


def max_disagreement(case, seed):
    return by_committee(case, disagreement.max_disagreement_sampling)


def bald(case, seed, offsets=False):
    return by_dropout(case, dropout.mc_dropout_bald, offsets)


def mean_std(case, seed, offsets=False):
    return by_dropout(case, dropout.mc_dropout_mean_st, offsets)


def dropout_entropy(case, seed, offsets=False):
    return by_dropout(case, dropout.mc_dropout_max_entropy, offsets)


def variation_ratio(case, seed, offsets=False):
    return by_dropout(case, dropout.mc_dropout_max_variationRatios, offsets)
