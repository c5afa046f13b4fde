"""CHOOSING K, covariance and rank: what was tried and how it went, and how far two partitions agree."""

from mixcoder.selection.agreement import adjusted_rand, jaccard
from mixcoder.selection.candidates import CRITERIA, Candidate, Selection
from mixcoder.selection.stability import Stability

__all__ = ["CRITERIA", "Candidate", "Selection", "Stability", "adjusted_rand", "jaccard"]
