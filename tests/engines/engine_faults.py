"""Faults that strike once, at a chosen read of a file. Workers import this: conftest.py puts the folder on the path."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixcoder.sources import FileSource, open_blocks


@dataclass(frozen=True)
class FaultyPart:
    """A file whose ``at``-th opening by a worker does harm; every one from then on, where ``once`` is false."""

    part: Any
    folder: Path
    fault: str
    at: int
    once: bool = True
    home: int = field(default_factory=os.getpid)

    path = property(lambda self: self.part.path)
    n_rows = property(lambda self: self.part.n_rows)
    n_features = property(lambda self: self.part.n_features)
    names = property(lambda self: self.part.names)
    stored = property(lambda self: self.part.stored)

    def place(self, row):
        return self.part.place(row)

    def reader(self):
        if os.getpid() == self.home:
            return self.part.reader()
        handle = os.open(self.folder / "opened", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(handle, b".")
        n_opened = os.fstat(handle).st_size
        os.close(handle)
        if n_opened >= self.at and (not self.once or self._first()):
            strike(self.fault)
        return self.part.reader()

    def _first(self):
        try:
            os.close(os.open(self.folder / "struck", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def strike(fault):
    match fault:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            time.sleep(3600)
        case "stumble":
            raise OSError(5, "Input/output error")
        case "eat":
            eaten = []
            while True:  # as fast as the nanny looks, and no faster than it can act
                eaten.append(np.ones(1 << 22))
                time.sleep(0.02)
        case "scheduler":
            os.kill(int(os.environ["MIXCODER_TEST_SCHEDULER"]), signal.SIGKILL)
            time.sleep(3600)
        case "memory":
            raise MemoryError("no more")
        case _:
            raise ValueError(fault)


def faulty(folder, x, fault, at, *, once=True):
    """Return a source of rows in three files, which strikes at one opening."""
    for i, piece in enumerate(np.array_split(x, 3)):
        np.save(folder / f"{i}.npy", piece)
    return FileSource([FaultyPart(part, folder, fault, at, once) for part in open_blocks(folder).parts])
