r"""Codes that are points of R^E: rows v and anchors w of the components, joined by a softargmax of squared distances.

.. math::
    q_{nk} = \frac{\exp(-\beta |v_n - w_k|^2)}{\lambda \exp(\alpha |v_n|^2) + \sum_j \exp(-\beta |v_n - w_j|^2)},
    \qquad q_{n0} = 1 - \sum_k q_{nk}

The absorber takes the share q_0 and generates no data. Two objectives of one row, both less rho |v|^2:

====  =========================  =======================================================================
L     log sum_k q_k p(x|k)       exact; wants the best component alone; a difference of convex functions
G     sum_k A_k log q_k          for fixed targets A; copies them (q = A); concave in v, whatever A
====  =========================  =======================================================================

At A = r(v), r_k = q_k p_k / sum_j q_j p_j, the two touch: L >= G + sum_k A_k (log p_k - log A_k), and their gradients
agree. Climbing G at A = r(v) therefore never lowers L.

That is :class:`EmbeddingKernel`. :class:`DistanceKernel` leaves the distance unsquared, :class:`SphereKernel` confines
v to the unit sphere; G is then no longer concave, and what is found is a local maximum.
"""

from __future__ import annotations

from mixcoder.ops.embedding.base import CodeKernel
from mixcoder.ops.embedding.distance import DistanceKernel
from mixcoder.ops.embedding.encode import EmbeddedCodes, encode_embedded, encode_exact
from mixcoder.ops.embedding.existence import code_exists, hull_vertices
from mixcoder.ops.embedding.sphere import SphereKernel
from mixcoder.ops.embedding.squared import EmbeddingKernel

__all__ = [
    "CodeKernel",
    "DistanceKernel",
    "EmbeddedCodes",
    "EmbeddingKernel",
    "SphereKernel",
    "code_exists",
    "encode_embedded",
    "encode_exact",
    "hull_vertices",
]
