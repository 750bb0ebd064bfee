"""baal: heuristics take probabilities [n, c, k] and answer with all n images in the order of preference.

`predict`, `predict_bald` and `experiment` run its model wrapper on a network of ours.
"""

import importlib
import sys
import time
from collections import defaultdict
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from baal import ModelWrapper
from baal.active import ActiveLearningDataset, ActiveLearningLoop, heuristics
from baal.active.heuristics import stochastics
from baal.bayesian.dropout import MCDropoutModule
from baal.modelwrapper import TrainingArgs
from torch.utils.data import TensorDataset
from torchmetrics import Accuracy


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


def ours(network, *shape):
    """A network made by a function of a module of scripts, with its arguments; it imports alframe from this checkout."""
    module, function, *arguments = network
    sys.path.insert(0, str(Path(__file__).parents[3]))
    return getattr(importlib.import_module(module), function)(*arguments, *shape)


def predictions(case, network, draws, batch_size, threads, replicate):
    """A function that answers with the logits [n, c, k] of all images; with `replicate` all draws of a batch are one large batch."""
    torch.set_num_threads(threads)
    module = ours(network)
    weights = {name.removeprefix("weights/"): torch.from_numpy(case[name]) for name in case if "/" in name}
    if weights:
        module.load_state_dict(weights)
    arguments = TrainingArgs(batch_size=batch_size, use_cuda=False, workers=0, replicate_in_memory=replicate)
    model = ModelWrapper(MCDropoutModule(module), arguments)
    images = torch.from_numpy(case["images"])
    dataset = TensorDataset(images, torch.zeros(len(images)))

    return lambda: model.predict_on_dataset(dataset, iterations=draws, verbose=False)


def predict(case, seed, **options):
    """The predictions alone, to be timed."""
    work = predictions(case, **options)

    def query(size):
        work()
        return []

    return query


def predict_bald(case, seed, **options):
    work = predictions(case, **options)
    return lambda size: ([], heuristics.BALD().get_uncertainties(work()))


def experiment(case, seed, network, rounds, draws, test_draws, epochs, batch_size, lr, threads, replicate=True):
    """An experiment as in the examples of its documentation: the loop, dropout always on, each round from the first weights."""
    torch.set_num_threads(threads)
    images, labels = torch.from_numpy(case["images"]), torch.from_numpy(case["labels"])
    test = TensorDataset(torch.from_numpy(case["test_images"]), torch.from_numpy(case["test_labels"]))
    stages, accuracies = defaultdict(float), []

    def timed(stage, work, *arguments, **options):
        begin = time.perf_counter()
        found = work(*arguments, **options)
        stages[stage] += time.perf_counter() - begin
        return found

    def query(size):
        active = ActiveLearningDataset(TensorDataset(images, labels))
        active.label(case["initial"].tolist())
        module = MCDropoutModule(ours(network, tuple(images.shape[1:]), 10))
        arguments = TrainingArgs(
            batch_size=batch_size,
            epoch=epochs,
            use_cuda=False,
            workers=0,
            criterion=torch.nn.CrossEntropyLoss(),
            replicate_in_memory=replicate,
        )
        model = ModelWrapper(module, arguments)
        model.add_metric("accuracy", lambda: Accuracy(task="multiclass", num_classes=10))
        first = deepcopy(model.state_dict())

        def predict(pool, **options):
            return timed("pool", model.predict_on_dataset, pool, **options)

        loop = ActiveLearningLoop(active, predict, heuristics.BALD(), query_size=size, iterations=draws, verbose=False)
        for round in range(rounds + 1):
            model.load_state_dict(first)
            arguments.optimizer = torch.optim.Adam(model.get_params(), lr=lr)
            timed("fit", model.train_on_dataset, active)
            timed("test", model.test_on_dataset, test, average_predictions=test_draws)
            accuracies.append(model.get_metrics("test")["test_accuracy"])
            if round < rounds:
                timed("step", loop.step)
        stages["select"] = stages.pop("step") - stages["pool"]
        return active.labelled.nonzero()[0], None, {"stages": stages, "accuracies": accuracies}

    return query
