"""The laws that every family, encoder and source obeys, as functions: for the classes here, and for yours.

``check_family(MyFamily)``, ``check_encoder(MyEncoder)`` and ``check_source(make_source)`` run them all and raise one
``AssertionError`` that names each broken law with its numbers. ``family_checks``, ``encoder_checks`` and
``source_checks`` yield the same laws one by one, as (name, callable), for a test runner to list; without arguments
they go through every class that ``discover`` finds in this package.

Seeds are fixed: a law that holds once holds always. Where chance has a say, the threshold is five standard errors.
"""

from mixcoder.checks.discovery import discover
from mixcoder.checks.encoder import check_encoder, encoder_checks
from mixcoder.checks.family import check_family, family_checks
from mixcoder.checks.source import check_source, source_checks

__all__ = [
    "check_encoder",
    "check_family",
    "check_source",
    "discover",
    "encoder_checks",
    "family_checks",
    "source_checks",
]
