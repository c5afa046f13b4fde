"""The claims of note CATSMILE-1013 on mixtures as generative autoencoders, each recomputed.

    claims()                        the claims, as functions of a torch.Generator
    claim(generator) -> Finding     its verdict, and the number on which it rests
    judge(seed)                     all of them, each from a generator of its own

A verdict is not looked up: a claim ``confirmed`` is one whose number, computed now, is what the verdict needs.
"""

from collections.abc import Iterator

import torch

from mixcoder.cli.claims import attempts, bayes, continuous, discrete, linear, objectives
from mixcoder.cli.claims.base import HEADINGS, VERDICTS, Claim, Finding
from mixcoder.ops.threads import single_threaded_kernels

__all__ = ["HEADINGS", "VERDICTS", "Claim", "Finding", "claims", "judge"]


def claims() -> list[Claim]:
    """Return every claim; the name of the function is the name of the claim."""
    modules = (objectives, discrete, continuous, attempts, linear, bayes)
    return [claim for module in modules for claim in module.CLAIMS]


def judge(every: list[Claim], seed: int) -> Iterator[tuple[str, Finding]]:
    """Yield name and finding of each claim.

    Each begins with the same seed, so that a number is the same whether its claim is asked for alone or with others.
    """
    for claim in every:
        # Thousands of tiny products: threads would cost more time than they save, and a digit here and there.
        with single_threaded_kernels():
            finding = claim(torch.Generator().manual_seed(seed))
        yield claim.__name__, finding
