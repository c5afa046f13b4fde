"""scikit-learn's fit callbacks where its version has them (1.9), nothing where it has not."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks

    HAS_CALLBACKS = True
except ImportError:  # scikit-learn < 1.9
    HAS_CALLBACKS = False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's mixin."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:  # type: ignore[no-redef]
        """Return the method unchanged."""
        return method


_watcher: ContextVar[Callable[[str], None] | None] = ContextVar("mixcoder_watcher", default=None)


@contextmanager
def watched(told: Callable[[str], None]) -> Generator[None]:
    """Within the block, tell of every iteration of a fit in words, with any version of scikit-learn."""
    token = _watcher.set(told)
    try:
        yield
    finally:
        _watcher.reset(token)


def current_watcher() -> Callable[[str], None] | None:
    """Return who is told of every iteration."""
    return _watcher.get()


class IterationTask:
    """Tells callbacks of every iteration of a fit, and listens to whether one asks to stop."""

    def __init__(
        self, estimator: Any, n_init: int, max_iter: int, *, X: Any, y: Any, sample_weight: Any
    ) -> None:
        self._max_iter = max_iter
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        self._rows = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._context: Any = None
        self._init: Any = None
        self._attempt = -1
        self._active = HAS_CALLBACKS and bool(getattr(estimator, "_skl_callbacks", None))
        if HAS_CALLBACKS:
            self._context = estimator._init_callback_context(max_subtasks=n_init)
            if self._active:
                self._context.call_on_fit_task_begin(**self._rows)

    def __call__(self, attempt: int, attributes: Callable[[], dict[str, Any]]) -> bool:
        """Report the end of an iteration; ``attributes`` are those of the estimator if it stopped now."""
        if not self._active:
            return False
        with torch.inference_mode(mode=False):  # the fit may run in it; a callback does what it likes
            return self._tell(attempt, attributes)

    def _tell(self, attempt: int, attributes: Callable[[], dict[str, Any]]) -> bool:
        if attempt != self._attempt:
            self._close_init()
            self._init = self._context.subcontext(task_name="start", max_subtasks=self._max_iter)
            self._init.call_on_fit_task_begin(**self._rows)
            self._attempt = attempt
        task = self._init.subcontext(task_name="iteration")
        task.call_on_fit_task_begin(**self._rows)
        return bool(task.call_on_fit_task_end(**self._rows, reconstruction_attributes=attributes))

    def close(self) -> None:
        """Report the end of the fit."""
        if self._active:
            self._close_init()
            self._context.call_on_fit_task_end(**self._rows, reconstruction_attributes=dict)

    def _close_init(self) -> None:
        if self._init is not None:
            self._init.call_on_fit_task_end(**self._rows)
            self._init = None


@contextmanager
def all_or_nothing(estimator: Any) -> Any:
    """Leave the estimator exactly as it was if the block does not end well."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException as error:
        after = vars(estimator)
        callbacks = {
            name: after[name] for name in ("_callback_fit_ctx", "_skl_callbacks_to_teardown") if name in after
        }
        after.clear()
        after.update(before | callbacks)
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
            raise MemoryError(
                f"{type(estimator).__name__} is left as it was: memory is used up. Use fewer components, components "
                "with fewer parameters, or rows in float32."
            ) from error
        raise


__all__ = [
    "HAS_CALLBACKS",
    "CallbackSupportMixin",
    "IterationTask",
    "all_or_nothing",
    "current_watcher",
    "watched",
    "with_callbacks",
]
