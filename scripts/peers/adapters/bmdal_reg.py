"""bmdal-reg: selection methods on given features (base kernel "linear"), with the training set (TP mode) where there is one."""

import numpy as np
import torch
from bmdal_reg.bmdal.algorithms import select_batch
from bmdal_reg.bmdal.feature_data import TensorFeatureData


def selection(features, labeled, method, **config):
    with_train = len(labeled) > 0
    # Without labels: P mode, which asks for a training set and does not look at it.
    train = labeled if with_train else np.zeros((1, features.shape[1]), dtype=features.dtype)
    data = {
        "train": TensorFeatureData(torch.from_numpy(np.ascontiguousarray(train))),
        "pool": TensorFeatureData(torch.from_numpy(np.ascontiguousarray(features))),
    }

    def query(size):
        return select_batch(
            size, [None], data, None, "linear", [], method, sel_with_train=with_train, verbosity=0, **config
        )[0].numpy()

    return query


def core_set(case, seed):
    return selection(case["features"], case["labeled_features"], "maxdist")


def probs(case, prefix):
    return np.exp(case[prefix + "point_log_probs"].astype(float))


def gradients(case, prefix=""):
    """(p - e) x [h; 1] of each image, written out."""
    p = probs(case, prefix)
    factor = p - np.eye(p.shape[1])[p.argmax(axis=1)]
    features = np.concatenate([case[prefix + "features"], np.ones((len(p), 1))], axis=1)
    return (factor[:, :, None] * features[:, None, :]).reshape(len(p), p.shape[1] * features.shape[1])


def weighted(case, prefix=""):
    """sqrt(p (1 - p)) h for the likeliest class: its outer product is the binary Fisher information."""
    likeliest = probs(case, prefix).max(axis=1, initial=0)
    return np.sqrt(likeliest * (1 - likeliest))[:, None] * case[prefix + "features"].astype(float)


def lcmd(case, seed):
    return selection(gradients(case), gradients(case, "labeled_"), "lcmd")


def bait(case, seed, backward=True):
    factor = 2.0 if backward else 1.0
    return selection(weighted(case), weighted(case, "labeled_"), "bait", bait_sigma=1.0, overselection_factor=factor)


def badge(case, seed):
    """k-means++ on the gradients."""
    embedding = gradients(case)
    return selection(embedding, embedding[:0], "kmeanspp")


def random(case, seed):
    return selection(case["features"], case["labeled_features"], "random")
