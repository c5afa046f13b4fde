"""A fit that is killed goes on where it was: its state in a model file, the last two kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from mixcoder import modelfile
from mixcoder._user_warnings import warn_user
from mixcoder.encoders import Encoder
from mixcoder.engines.parcel import FlatTensor
from mixcoder.errors import CorruptModelError, DataChangedError, FitError, ModelFileError
from mixcoder.estimators import _persistence as persistence
from mixcoder.fitting.alternate import FitResult, History, Progress
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import FitState
from mixcoder.fitting.scan import Scan
from mixcoder.fitting.variational import VariationalProblem

_KIND = "checkpoint"

# What does not change a fitted model.
_FREE = ("verbose", "verbose_interval", "on_interrupt", "copy_x", "warm_start")


class Checkpoint:
    """The file of one fit.

    Parameters
    ----------
    path : Path
    every : float
        Seconds between two checkpoints.
    resume : bool
    """

    def __init__(self, path: Path, every: float, *, resume: bool) -> None:
        self.path, self.previous = path, path.with_name(path.name + ".previous")
        self.every, self.resume = every, resume
        self.seed = 0
        self.generators: list[torch.Generator | np.random.RandomState] = []
        self._told: dict[str, Any] = {}
        self._file: modelfile.ModelFile | None = None
        self._latest: tuple[FitState, list[Any]] | None = None
        self._written, self._at = False, time.monotonic()

    @classmethod
    def at(cls, path: Any, every: float, *, resume: bool) -> Checkpoint | None:
        """Return the checkpoint that the arguments of ``fit`` ask for, after a look at them."""
        if path is None:
            if resume:
                raise ValueError("resume=True needs checkpoint=..., the file to go on from.")
            return None
        if isinstance(every, bool) or not 0 <= every < math.inf:
            raise ValueError(f"checkpoint_every must be a number of seconds, 0 or more, got {every!r}.")
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise FileNotFoundError(
                f"{target.parent} is no directory: make it, or put the checkpoint elsewhere."
            )
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a directory; expected the name of a file.")
        return cls(target, float(every), resume=resume)

    def open(self, estimator: Any, problem: Problem, seen: Scan) -> None:
        """Read the state to go on from, where there is one, and compare rows and parameters with its own.

        Raises
        ------
        DataChangedError
            If the rows are not those of the checkpoint.
        FitError
            If the parameters are not.
        CorruptModelError
            If neither of the two files is whole.
        """
        seed = estimator.random_state
        told = {
            "estimator": type(estimator).__name__,
            "parameters": _parameters(estimator),
            "rows": _fingerprint(problem, seen),
        }
        self._file = self._newest() if self.resume else None
        if self._file is not None:
            found = self._file.metadata
            if found["rows"] != told["rows"]:
                raise DataChangedError(
                    f"{self.path} belongs to a fit of other rows (their number, order, weights or values differ). Fit "
                    "the rows that it was made from, or start again without resume."
                )
            changed = sorted(
                name
                for name in told["parameters"].keys() | found["parameters"].keys()
                if told["parameters"].get(name) != found["parameters"].get(name)
            )
            if found["estimator"] != told["estimator"] or changed:
                raise FitError(
                    f"{self.path} belongs to a fit of {found['estimator']} with other parameters "
                    f"({', '.join(changed)}). Use those, or start again without resume."
                )
            self.seed = int(found["seed"])
        elif isinstance(seed, (int, np.integer)):
            self.seed = int(seed)
        else:
            self.seed = int(check_random_state(seed).randint(np.iinfo(np.int32).max))
        self._told = told | {"seed": self.seed}

    def state(self, problem: Problem, encoder: Encoder) -> FitState | None:
        """Return the state to go on from, once every generator of the fit has been made."""
        if self._file is None:
            return None
        try:
            state = _unpacked(self._file, problem, encoder)
            for place, generator in enumerate(self.generators):
                _restore(generator, self._file, place)
        except Exception as error:
            raise CorruptModelError(
                f"{self.path}: the content makes no state of this fit: {error}"
            ) from error
        return state

    def keep(self, state: FitState) -> None:
        """Remember a state, and write it if it is time to."""
        self._latest = state, [_state_of(generator) for generator in self.generators]
        self._written = False
        if time.monotonic() - self._at >= self.every:
            self.write()

    def write(self) -> None:
        """Write the last state, unless it has been."""
        if self._latest is None or self._written:
            return
        state, generators = self._latest
        arrays, metadata = _packed(state, generators)
        if self.path.exists():
            # If the process ends here, the previous file is the one to go on from.
            self.path.replace(self.previous)
        modelfile.write(self.path, _KIND, arrays, self._told | metadata)
        self._written, self._at = True, time.monotonic()

    def _newest(self) -> modelfile.ModelFile | None:
        error: Exception | None = None
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                file = modelfile.read(path)
            except ModelFileError as damaged:
                error = error or damaged
                continue
            if file.kind != _KIND:
                raise CorruptModelError(f"{path} holds a {file.kind!r}, no checkpoint.")
            if error is not None:
                warn_user(f"{error} The fit goes on from {path}.", UserWarning)
            return file
        if error is not None:
            raise error
        return None


Keeping = tuple[FitState | None, Callable[[FitState], None] | None]


@contextmanager
def checkpointed(estimator: Any, problem: Problem, encoder: Encoder) -> Generator[Keeping]:
    """Give the state to go on from, and who keeps states; whatever ends the block, the last state is written."""
    checkpoint: Checkpoint | None = estimator._checkpoint
    if checkpoint is None:
        yield None, None
        return
    state = checkpoint.state(problem, encoder)
    with _sigterm_raises():
        try:
            yield state, checkpoint.keep
        finally:
            checkpoint.write()


@contextmanager
def _sigterm_raises() -> Generator[None]:
    """Let SIGTERM end the process by an exception, unless somebody else listens to it."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    listens = threading.current_thread() is threading.main_thread()
    if not listens or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _parameters(estimator: Any) -> dict[str, str]:
    """Return a digest of every parameter that a fitted model depends on."""
    digests: dict[str, str] = {}
    for name, value in estimator.get_params(deep=False).items():
        if name in _FREE:
            continue
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        try:
            packed = persistence._pack_parameter(name, value, arrays)
        except ModelFileError:
            packed = {"repr": repr(value)}
        text = json.dumps(packed, sort_keys=True).encode()
        content = b"".join(str(a.shape).encode() + a.tobytes() for a in arrays.values())
        digests[name] = hashlib.sha256(text + content).hexdigest()[:16]
    return digests


def _fingerprint(problem: Problem, seen: Scan) -> str:
    """Return a digest of the rows: their number and kind, and what one look at all of them has added up."""
    source = problem.source
    told = [
        source.n_rows,
        source.n_features,
        str(source.dtype),
        seen.weight.hex(),
        seen.n_missing,
        seen.n_empty,
    ]
    if isinstance(problem, VariationalProblem):
        told.append(float(problem.row_weight).hex())  # against a prior the scale of weights matters
    digest = hashlib.sha256(json.dumps(told).encode())
    for part in (seen.mean, seen.std, seen.lowest, seen.highest, problem.pooled):
        if part is not None:
            digest.update(part.double().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


# States as arrays and JSON. Tensors keep the layout that they have in memory: it decides the last bit of a product.


def _packed(state: FitState, generators: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}

    def pack(name: str, value: Any) -> Any:
        return None if value is None else persistence._pack_tensors(value, name, tensors, lambda t: t)

    def result(name: str, value: FitResult) -> dict[str, Any]:
        tensors[f"{name}.log_weights"] = value.model.log_weights
        plain = {
            field: getattr(value, field) for field in ("bound", "converged", "reason", "n_iter", "encoded_at")
        }
        return plain | {
            "params": pack(f"{name}.params", value.params),
            "statistics": pack(f"{name}.statistics", value.statistics),
            "history": value.history.as_dict(),
            "refilled": list(value.refilled),
            "dropped": list(value.dropped),
        }

    progress = state.progress
    tensors["log_weights"], tensors["best.log_weights"] = progress.log_weights, progress.best[2]
    metadata = {
        "attempt": state.attempt,
        "iteration": progress.iteration,
        "previous": progress.previous,
        "longest": progress.longest,
        "bound": progress.best[0],
        "params": pack("params", progress.params),
        "best": pack("best.params", progress.best[1]),
        "recent": [pack(f"recent.{i}", sums) for i, sums in enumerate(progress.recent)],
        "last": pack("last", progress.last),
        "history": progress.history.as_dict(),
        "refills": [[k, n] for k, n in sorted(progress.refills.items())],
        "dropped": list(progress.dropped),
        "best_result": None if state.best is None else result("result", state.best),
        "generators": [told for told, _ in generators],
    }
    arrays: dict[str, Any] = {f"generator.{i}": array for i, (_, array) in enumerate(generators)}
    layout: dict[str, Any] = {}
    for name, tensor in tensors.items():
        flat = FlatTensor.of(tensor)
        arrays[name] = flat.numbers
        layout[name] = [list(flat.shape), list(flat.strides), flat.offset]
    return arrays, metadata | {"layout": layout}


def _unpacked(file: modelfile.ModelFile, problem: Problem, encoder: Encoder) -> FitState:
    told, family = file.metadata, problem.family
    tensors = {
        name: FlatTensor(file.arrays[name], tuple(shape), tuple(strides), offset)
        .tensor()
        .to(problem.source.device)
        for name, (shape, strides, offset) in told["layout"].items()
    }
    an_example = problem.example(persistence._example_params(family))

    def params_of(packed: Any, name: str) -> Any:
        return persistence._unpack_tensors(an_example, packed, name, tensors)

    params = params_of(told["params"], "params")

    def sums_of(packed: Any, name: str) -> Any:
        if packed is None:
            return None
        n_features = problem.source.n_features
        return persistence._unpack_sums(family, params, n_features, packed, name, tensors)

    best, found = None, told["best_result"]
    if found is not None:
        fitted = params_of(found["params"], "result.params")
        model = problem.model(fitted, tensors["result.log_weights"], encoder.at(found["encoded_at"]))
        best = FitResult(
            # Those of a posterior were made to sum to one, which once more may change their last bit.
            replace(model, log_weights=tensors["result.log_weights"]),
            fitted,
            found["bound"],
            found["converged"],
            found["reason"],
            found["n_iter"],
            History(**found["history"]),
            tuple(found["refilled"]),
            tuple(found["dropped"]),
            sums_of(found["statistics"], "result.statistics"),
            encoded_at=found["encoded_at"],
        )
    progress = Progress(
        params,
        tensors["log_weights"],
        told["iteration"],
        told["previous"],
        (told["bound"], params_of(told["best"], "best.params"), tensors["best.log_weights"]),
        tuple(sums_of(packed, f"recent.{i}") for i, packed in enumerate(told["recent"])),
        told["longest"],
        sums_of(told["last"], "last"),
        History(**told["history"]),
        dict(told["refills"]),
        tuple(told["dropped"]),
    )
    return FitState(told["attempt"], progress, best)


def _state_of(generator: torch.Generator | np.random.RandomState) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Return the state of a generator, in JSON and an array."""
    if isinstance(generator, torch.Generator):
        return ["torch"], generator.get_state().numpy()
    name, keys, place, has_gauss, gauss = generator.get_state(legacy=True)
    return [str(name), int(place), int(has_gauss), float(gauss)], np.asarray(keys, np.int64)


def _restore(
    generator: torch.Generator | np.random.RandomState, file: modelfile.ModelFile, place: int
) -> None:
    told, array = file.metadata["generators"][place], file.arrays[f"generator.{place}"]
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.from_numpy(array))
    else:
        generator.set_state((told[0], array.astype(np.uint32), *told[1:]))


__all__ = ["Checkpoint", "checkpointed"]
