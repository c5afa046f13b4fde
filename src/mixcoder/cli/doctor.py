"""``mixcoder doctor``: what this installation is made of, and whether it works."""

import importlib
import importlib.metadata
import os
import platform
import sys
from typing import Any

import click

from mixcoder.cli.console import align, emit
from mixcoder.cli.options import debug_option, json_option

__all__ = ["command"]

REQUIRED = (
    "click",
    "matplotlib",
    "numpy",
    "rich",
    "safetensors",
    "scikit-learn",
    "scipy",
    "threadpoolctl",
    "torch",
)
EXTRAS = {"io": ("pyarrow",)}


@click.command("doctor", short_help="Versions, threads, devices, a trial.")
@json_option
@debug_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Print versions, threads and devices, and try a small fit.

    Exits with 6 if something that every command needs is missing or broken.
    """
    from mixcoder import __version__

    packages = {name: _version(name) for name in REQUIRED}
    extras = {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()}
    problems = [f"{name} is not installed" for name, version in packages.items() if version is None]
    pools, torch_facts = _ask(_thread_pools, problems), _ask(_torch, problems)
    trial = _ask(_trial, problems)
    record: dict[str, Any] = {
        "mixcoder": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable_bits": 64 if sys.maxsize > 2**32 else 32,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "usable_cpus": _usable_cpus(),
        "packages": packages,
        "extras": extras,
        "thread_pools": pools or [],
        "torch": torch_facts,
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.endswith("_NUM_THREADS")
        },
        "trial": trial,
        "problems": problems,
        "ok": not problems,
    }
    emit("mixcoder.doctor/1", record, _text(record), as_json=as_json)
    if problems:
        ctx.exit(6)


def _text(record: dict[str, Any]) -> list[str]:
    rows = [
        ("mixcoder", record["mixcoder"]),
        ("Python", f"{record['python']} ({record['implementation']}, {record['platform']})"),
        ("CPUs", f"{record['usable_cpus']} usable of {record['cpus']}"),
    ]
    rows += [(name, version or "missing") for name, version in record["packages"].items()]
    for extra, names in record["extras"].items():
        rows += [
            (name, version or f"not installed (optional: pip install 'mixcoder[{extra}]')")
            for name, version in names.items()
        ]
    rows += [
        (
            pool["user_api"],
            f"{pool['prefix']} {pool['version'] or ''}".strip() + f", {pool['num_threads']} threads",
        )
        for pool in record["thread_pools"]
    ]
    facts = record["torch"]
    if facts is not None:
        devices = ", ".join(facts["cuda_devices"]) or "none"
        rows += [
            ("torch threads", f"{facts['threads']} within an operation, {facts['interop_threads']} between"),
            ("CUDA", devices if facts["cuda"] else "not available"),
        ]
    rows += [(name, value) for name, value in record["environment"].items()]
    if record["trial"] is not None:
        rows.append(("trial fit", f"ok, {record['trial']['seconds']:.2f} s"))
    text = align(rows)
    text += [f"problem: {line}" for line in record["problems"]]
    text.append("something is broken" if record["problems"] else "ok")
    return text


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usable_cpus() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count()


def _ask(question: Any, problems: list[str]) -> Any:
    """The answer, or None and one more problem: a broken library may fail in any way when it is imported."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())
        problems.append(f"{question.__name__.strip('_').replace('_', ' ')}: {type(error).__name__}: {reason}")
        return None


def _thread_pools() -> list[dict[str, Any]]:
    import threadpoolctl

    for name in (
        "numpy",
        "scipy.linalg",
        "sklearn.utils",
        "torch",
    ):  # a pool is seen once its library is loaded
        importlib.import_module(name)
    wanted = (
        "user_api",
        "internal_api",
        "prefix",
        "version",
        "num_threads",
        "threading_layer",
        "architecture",
    )
    pools = [{name: info.get(name) for name in wanted} for info in threadpoolctl.threadpool_info()]
    return sorted(pools, key=lambda pool: [str(pool[name]) for name in wanted])


def _torch() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cuda": cuda,
        "cuda_version": torch.version.cuda,
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
    }


def _trial() -> dict[str, Any]:
    """Two clouds, ten apart: fit, save, load, and find each row in its cloud."""
    import tempfile
    import time
    from pathlib import Path

    import numpy as np

    import mixcoder

    start = time.perf_counter()
    rows = np.random.default_rng(0).standard_normal((200, 3))
    rows[100:] += 10.0
    model = mixcoder.GaussianMixture(n_components=2, random_state=0).fit(rows)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "trial.mixcoder")
        model.save(path)
        labels = mixcoder.load(path).predict(rows)
    if len(set(labels[:100])) != 1 or len(set(labels[100:])) != 1 or labels[0] == labels[-1]:
        raise RuntimeError("two clouds of rows, ten standard deviations apart, were not told apart")
    return {"seconds": time.perf_counter() - start}
