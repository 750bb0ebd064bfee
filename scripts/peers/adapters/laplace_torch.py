"""laplace-torch: last-layer Laplace of a trained linear layer on features."""

import time

import torch
from laplace import Laplace
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def last_layer(case, seed, draws=100, pred_type="glm"):
    """Answers nothing but notes: the prior precision, seconds of fit and of prediction, the spread of the drawn probabilities."""
    layer = nn.Linear(case["weight"].shape[1], len(case["weight"]))
    layer.load_state_dict({name: torch.from_numpy(case[name]) for name in ("weight", "bias")})
    loader = DataLoader(TensorDataset(torch.from_numpy(case["features"]), torch.from_numpy(case["labels"])), 256)
    pool = torch.from_numpy(case["pool"])

    def query(size):
        begin = time.perf_counter()
        posterior = Laplace(layer, "classification", subset_of_weights="all", hessian_structure="kron")
        posterior.fit(loader)
        posterior.optimize_prior_precision(method="marglik")
        fitted = time.perf_counter()
        samples = posterior.predictive_samples(pool, pred_type=pred_type, n_samples=draws)
        notes = {
            "precision": float(posterior.prior_precision),
            "fit_s": fitted - begin,
            "predict_s": time.perf_counter() - fitted,
            "spread": float(samples.std(dim=0).mean()),
        }
        return [], None, notes

    return query
