"""The gradient that the last layer would get if the predicted label were the true one, in factors."""

import torch

from alframe.types import Prediction, Summary


def last_layer_gradients(prediction: Prediction) -> Summary:
    """g = (p - e_ŷ) ⊗ [h; 1] as its two factors: `gradient` [b, c] and `features` [b, d + 1]; c + d + 1 numbers per image, not c (d + 1).

    p, the hallucinated label ŷ = argmax p and h are those of the deterministic network, not of the posterior mean.
    Source: Ash et al. 2020, arXiv:1906.03671.
    """
    log_probs, features = prediction.point_log_probs, prediction.features
    hallucinated = log_probs.argmax(dim=1, keepdim=True)
    others = log_probs.exp().scatter(1, hallucinated, 0)
    # p - 1 as minus the sum of the others: it would round to 0 for a confident image, and turn its gradient.
    gradient = others.scatter(1, hallucinated, -others.sum(dim=1, keepdim=True))
    return {"gradient": gradient, "features": torch.cat([features, features.new_ones(len(features), 1)], dim=1)}
