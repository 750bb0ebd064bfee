"""baal: heuristics take probabilities [n, c, k] and answer with all n images in the order of preference."""

import numpy as np
from baal.active import heuristics
from baal.active.heuristics import stochastics


def probs(case, name="log_probs"):
    return np.ascontiguousarray(np.exp(case[name].astype(float)).swapaxes(1, 2))


def ranked(case, heuristic):
    p = probs(case)

    def query(size):
        ranks, scores = heuristic.get_ranks(p)
        return ranks[:size], scores

    return query


def least_confidence(case, seed):
    return ranked(case, heuristics.Certainty())


def margin(case, seed):
    return ranked(case, heuristics.Margin())


def entropy(case, seed):
    return ranked(case, heuristics.Entropy())


def bald(case, seed):
    return ranked(case, heuristics.BALD())


def mean_std(case, seed):
    return ranked(case, heuristics.Variance())


def random(case, seed):
    return ranked(case, heuristics.Random(seed=seed))


def batch_bald(case, seed, configurations=500):
    """`configurations` for each draw, as the peer counts them."""
    p = probs(case)

    def query(size):
        return heuristics.BatchBALD(num_samples=size, num_draw=configurations).get_ranks(p)[0][:size]

    return query


def epig(case, seed):
    p, target = probs(case), probs(case, "target_log_probs")

    def query(size):
        ranks, scores = heuristics.EPIG().get_ranks(p, target)
        return ranks[:size], scores

    return query


def sampled(case, kind, temperature):
    p = probs(case)
    return lambda size: kind(heuristics.BALD(), size, temperature=temperature).get_ranks(p)[0]


def power_bald(case, seed, temperature=1.0):
    return sampled(case, stochastics.PowerSampling, temperature)


def softmax_bald(case, seed, temperature=1.0):
    return sampled(case, stochastics.GibbsSampling, temperature)


def softrank_bald(case, seed, temperature=1.0):
    return sampled(case, stochastics.RankBasedSampling, temperature)
