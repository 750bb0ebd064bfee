"""Scores that need only a prediction: `log_probs [b, k, c] -> score [b]`, higher = more worth labelling.

Pure functions of float32 log-probabilities (natural logarithms, normalised over the last axis; -inf for a probability of
0), on the device of their argument. p_k is the distribution of draw k, p̄ its mean over the draws. Large batches are
processed in chunks, so a score takes a few megabytes beside its argument.
"""

import math
from collections.abc import Callable
from functools import wraps

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK_BYTES = 1 << 22  # fits in a core's cache, which halves the time at a million images

Score = Callable[[Float[Tensor, "b k c"]], Float[Tensor, " b"]]


def _in_chunks(score: Score) -> Score:
    @wraps(score)
    def score_in_chunks(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
        rows = max(1, _CHUNK_BYTES // (log_probs[0].nbytes or 1)) if len(log_probs) else 1
        return torch.cat([score(chunk) for chunk in log_probs.split(rows)])

    return score_in_chunks


def _mean(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, "b c"]:
    # The mean of probabilities: averaging logarithms or logits would give a different, overconfident distribution.
    return log_probs.exp().mean(dim=1)


def _entropy(probs: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    return torch.special.entr(probs).sum(dim=-1)  # entr(0) = 0, where p * log(p) is NaN


def _votes(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, "b c"]:
    """How many draws vote for each class; a draw votes for its most likely class."""
    likeliest, votes = log_probs.max(dim=-1)
    counts = log_probs.new_zeros(len(log_probs), log_probs.shape[2])
    return counts.scatter_add_(1, votes, 1 + 0 * likeliest)  # 1 each, and NaN for NaN


@_in_chunks
def least_confidence(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """Probability of not being the predicted class, in [0, 1 - 1/c].

    1 - max_c p̄_c.
    Source: Lewis & Gale 1994, arXiv:cmp-lg/9407020. Differs: several classes, and the mean over posterior draws.
    """
    return 1 - _mean(log_probs).amax(dim=-1)


@_in_chunks
def margin(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """One minus the gap between the two most likely classes, in [0, 1].

    1 - (p̄_(1) - p̄_(2)), a gap of probabilities. For c > 2 a gap of logits is a different rule with another ranking.
    Source: Scheffer, Decomain & Wrobel 2001. Differs: the mean over posterior draws.
    """
    likeliest = _mean(log_probs).topk(2, dim=-1).values
    return 1 - (likeliest[:, 0] - likeliest[:, 1])


@_in_chunks
def entropy(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """Predictive entropy in nats, in [0, log c].

    H[p̄] = -sum_c p̄_c log p̄_c.
    Source: Shannon 1948; as a query rule, Settles & Craven 2008.
    """
    return _entropy(_mean(log_probs))


@_in_chunks
def mean_std(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """Standard deviation of a class probability over the draws, averaged over classes, in [0, 1/2]; 0 when k = 1.

    mean_c sqrt(mean_k p_kc² - p̄_c²).
    Source: Kampffmeyer et al. 2016 (CVPR workshops); Gal, Islam & Ghahramani 2017, arXiv:1703.02910.
    """
    probs = log_probs.exp()
    return (probs - probs.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt().mean(dim=-1)


@_in_chunks
def variation_ratio(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """Share of the draws that vote against the most voted class, in [0, 1 - 1/min(c, k)], plus a tie-breaker below 0.01/k.

    1 - (votes of the mode) / k, where a draw votes for its most likely class. With few draws most images tie, so ties are
    ordered by the entropy of the mean: (0.01/k) H[p̄] / log c is added, which is always less than a single vote.
    Source: Freeman 1965; Beluch et al. 2018 (CVPR). Differs: the tie-breaker.
    """
    k, c = log_probs.shape[1:]
    second_key = _entropy(_mean(log_probs)) / math.log(c)
    return 1 - _votes(log_probs).amax(dim=-1) / k + 0.01 / k * second_key


@_in_chunks
def vote_entropy(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """Entropy of the draws' votes in nats, in [0, log min(c, k)]; 0 when k = 1.

    -sum_c (v_c/k) log (v_c/k), where v_c draws vote for class c, each for its most likely class. Images with the same
    counts get bitwise equal scores, whatever the classes: with few draws most images tie, and a rule can then break ties.
    Source: Engelson & Dagan 1996 (ACL); Argamon-Engelson & Dagan 1999, arXiv:1106.0220. Differs: in nats, not divided by a constant.
    """
    counts = _votes(log_probs).sort(dim=-1).values.double()  # sorted: the order of a sum changes its last bits
    return _entropy(counts / log_probs.shape[1]).float()


@_in_chunks
def bald(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """Mutual information I[y; draw | x] in nats, in [0, log min(c, k)]; exactly 0 when k = 1.

    I = H[p̄] - mean_k H[p_k].
    Source: Houlsby et al. 2011, arXiv:1112.5745. Differs: draws are equally weighted; rounding below 0 is clamped.
    """
    probs = log_probs.exp()
    return (_entropy(probs.mean(dim=1)) - _entropy(probs).mean(dim=1)).clamp_min(0)


@_in_chunks
def mean_kl(log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
    """Mean divergence of a draw from the mean of all draws in nats, in [0, log min(c, k)]; exactly 0 when k = 1.

    mean_k KL(p_k || p̄) = mean_k sum_c p_kc log(p_kc / p̄_c). This equals BALD, because sum_k p_kc / k = p̄_c turns the
    second logarithm's part into H[p̄]. The two differ only by rounding.
    Source: McCallum & Nigam 1998 (ICML), who also weight by density. Differs: no density weight; rounding below 0 is clamped.
    """
    probs = log_probs.exp()
    mean = probs.mean(dim=1, keepdim=True).clamp_min(
        torch.finfo(probs.dtype).tiny
    )  # it may round to 0 where no p_kc does
    terms = torch.xlogy(probs, probs) - torch.xlogy(probs, mean)  # 0 where p_kc = 0
    return terms.sum(dim=-1).mean(dim=1).clamp_min(0)
