"""What the claims share: verdicts, sections, kernels, draws."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder.ops.embedding import EmbeddingKernel

F64 = torch.float64
HOLDS, WHEN, FAILS = VERDICTS = ("holds", "holds when", "fails")

PLAIN = EmbeddingKernel()
CONSTANT = EmbeddingKernel(absorber=1.0)
THIRD = EmbeddingKernel(absorber=1.0, alpha=1.0, beta=1.0)

# The sections, in the order of the note, and what the note calls them.
HEADINGS = {
    "foreword": "前言",
    "generative autoencoder": "生成式自编码模型",
    "discrete code": "离散隐变量",
    "continuous code": "E-step for v 推导",
    "EOL bound": "EOL下界",
    "fixed point": "E-step for v 结论",
    "anchors": "E-step for w",
    "push-away": "问题在哪?",
    "attempt one": "尝试一",
    "attempt two": "尝试二",
    "attempt three": "尝试三及结论",
    "linear models": "混合的线性模型 (未完成)",
    "vanilla EM": "推导Vanilla EM",
}


@dataclass(frozen=True)
class Finding:
    """What became of one claim.

    Attributes
    ----------
    section : str
        A key of :data:`HEADINGS`.
    claim : str
        What the note says or asks.
    verdict : str
        One of :data:`VERDICTS`.
    because : str
        The condition under which it holds, the counter-example, or nothing.
    number : float
        What was computed.
    meaning : str
        Of the number.
    confirmed : bool
        Whether the number is what the verdict needs.
    """

    section: str
    claim: str
    verdict: str
    because: str
    number: float
    meaning: str
    confirmed: bool


Claim = Callable[[torch.Generator], Finding]


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal draws."""
    return torch.randn(*shape, generator=generator, dtype=F64)


def simplex(generator: torch.Generator, n: int, k: int) -> Tensor:
    """Points of the simplex, shape (n, k), some of them near its vertices."""
    return (2 * normal(generator, n, k)).softmax(1)


def masses(generator: torch.Generator, n: int, k: int) -> Tensor:
    """Uniform on the simplex."""
    masses = -torch.rand(n, k, generator=generator, dtype=F64).log()
    return masses / masses.sum(1, keepdim=True)


def balls(x: Tensor, means: Tensor, variance: float) -> Tensor:
    """Log-densities of N(a_k, s2 I), shape (n, k)."""
    d = x.shape[1]
    return -0.5 * (torch.cdist(x, means).square() / variance + d * math.log(2 * math.pi * variance))


def alternate(x: Tensor, means: Tensor, steps: int, *, strength: float = 0.0) -> tuple[Tensor, list[float]]:
    """EM for the means of an even mixture of N(a_k, I), with priors N(0, I / strength); its bound at every step."""
    trace: list[float] = []
    for _ in range(steps):
        h = balls(x, means, 1.0)
        trace.append(float(torch.logsumexp(h, 1).sum() - strength / 2 * means.square().sum()))
        r = h.softmax(1)
        means = r.T @ x / (r.sum(0)[:, None] + strength)
    return means, trace
