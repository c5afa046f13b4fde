"""The command line: one command per file, loaded when it is called.

    mixcoder fit DATA -k 8      rows -> model file          mixcoder inspect FILE    what a file holds
    mixcoder encode MODEL DATA  rows -> codes               mixcoder check DATA      would a fit accept these rows?
    mixcoder decode MODEL CODES codes -> rows               mixcoder doctor          versions, threads, devices
    mixcoder score MODEL DATA   rows -> log-densities       mixcoder demo            all of it on real images
    mixcoder sample MODEL       model -> rows               mixcoder reproduce       the note's claims, recomputed
    mixcoder report DATA        rows -> a page to read

Results go to stdout, everything else to stderr. Nothing heavier than click is imported before a command needs it, so
``mixcoder --help`` starts at once; a test holds this.
"""

from mixcoder.cli.program import main

__all__ = ["main"]
