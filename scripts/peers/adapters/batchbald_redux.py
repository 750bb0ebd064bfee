"""batchbald-redux: functions of log-probabilities [n, k, c]."""

import torch
from batchbald_redux import batchbald


def bald(case, seed):
    log_probs = torch.from_numpy(case["log_probs"]).double()
    return lambda size: batchbald.get_bald_batch(log_probs, size).indices


def batch_bald(case, seed, configurations=40_000):
    log_probs = torch.from_numpy(case["log_probs"]).double()

    def query(size):
        return batchbald.get_batchbald_batch(log_probs, size, configurations, dtype=torch.double).indices

    return query
