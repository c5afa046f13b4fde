"""``mixcoder restore``: a photograph without its noise, holes or blur, or larger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mixcoder.cli import outputs
from mixcoder.cli.console import align, count, emit, number, progress
from mixcoder.cli.options import (
    IntegerWithin,
    NumberWithin,
    debug_option,
    force_option,
    json_option,
    quiet_option,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mixcoder.cli.photographs import Photograph
    from mixcoder.sensing import EPLL

__all__ = ["command"]


@click.command("restore", short_help="Denoise, fill in, deblur or enlarge a photograph.")
@click.argument("image", metavar="IMAGE")
@click.option(
    "-o", "--out", metavar="IMAGE", required=True, help="Where the restored image goes, PNG or NPY."
)
@click.option(
    "--noise",
    metavar="STD",
    type=NumberWithin(min=0),
    help="Standard deviation of its noise, in the numbers of the file (0..255, 0..65535, or 0..1).",
)
@click.option("--mask", metavar="FILE", help="Fill in the pixels where this image is black (or false).")
@click.option(
    "--blur",
    metavar="STD",
    type=NumberWithin(min=0, min_open=True),
    help="Take away a normal blur, its standard deviation in pixels.",
)
@click.option(
    "--kernel", metavar="FILE", help="Take away the blur with this kernel, a small image or matrix."
)
@click.option("--factor", metavar="N", type=IntegerWithin(min=2), help="Enlarge it so many times.")
@click.option(
    "-m", "--model", metavar="MODEL", help="A mixture of patches (default: the one that comes along)."
)
@json_option
@force_option
@quiet_option
@debug_option
def command(
    image: str,
    out: str,
    noise: float | None,
    mask: str | None,
    blur: float | None,
    kernel: str | None,
    factor: int | None,
    model: str | None,
    as_json: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Write IMAGE as it was before noise, holes, blur or a small camera, by what a mixture knows of patches.

    Say at most one of --mask, --blur, --kernel and --factor, and how much noise there is beside; with --noise alone the
    image is denoised.
    """
    task = _task(noise, mask, blur, kernel, factor)

    from mixcoder.cli import photographs

    kind = photographs.kind_of(out)
    inputs = tuple(path for path in (image, mask, kernel, model) if path is not None)
    target = outputs.claim(out, force=force, inputs=inputs)
    shot = photographs.read(image)
    known = None if mask is None else _known(mask, shot)
    pixels = _pixels(shot, known)

    import torch

    from mixcoder.cli import models
    from mixcoder.sensing.epll import ADAPTATIONS, FILLING, RESTORING

    matrix = _kernel(blur, kernel, shot)
    fitted, restorer = _restorer(model)
    std = (noise or 0.0) / shot.full
    # Where the image is solved for, what rounding to whole numbers took away counts as noise too.
    whole = math.hypot(std, shot.rounding)
    rounds = {"denoise": ADAPTATIONS + 1, "inpaint": len(FILLING)}.get(task, len(RESTORING))
    with progress("restoring", rounds, quiet=quiet) as advance, models.about(image):
        settings: Any = {"on_round": lambda done, of: advance(1)}
        if known is not None:
            restored = restorer.inpaint(pixels, torch.from_numpy(known), std, **settings)
        elif matrix is not None:
            restored = restorer.deblur(pixels, matrix, whole, edges="unknown", **settings)
        elif factor is not None:
            restored = restorer.super_resolve(pixels, factor, whole, **settings)
        else:
            restored = restorer.denoise(pixels, std, **settings)
    with outputs.replace_atomically(target, force=force) as draft:
        photographs.write(draft, restored.numpy(), shot, kind)
    record = {
        "image": image,
        "height": pixels.shape[-2],
        "width": pixels.shape[-1],
        "channels": 1 if pixels.ndim == 2 else len(pixels),
        "task": task,
        "noise": noise,
        "unknown": None if known is None else int((~known).sum()),
        "kernel": None if matrix is None else list(matrix.shape),
        "factor": factor,
        "model": model,
        "n_components": models.n_components(fitted),
        "patch_size": restorer.patch_size,
        "out": click.format_filename(out),
        "out_height": restored.shape[-2],
        "out_width": restored.shape[-1],
    }
    what = {
        "denoise": f"noise {number(noise)}",
        "inpaint": count(record["unknown"] or 0, "unknown pixel"),
        "deblur": "" if matrix is None else f"a kernel of {_size(matrix.shape)} pixels",
        "enlarge": f"{factor} times",
    }
    patches = f"{_size((restorer.patch_size,) * 2)} pixels, {count(record['n_components'], 'component')}"
    lines = [
        (
            "image",
            f"{image}: {_size(pixels.shape[-2:])} pixels, {'grey' if pixels.ndim == 2 else 'in colour'}",
        ),
        (task, what[task]),
        ("patches", patches),
        ("saved", f"{record['out']}: {_size(restored.shape[-2:])} pixels"),
    ]
    emit("mixcoder.restore/1", record, align(lines), as_json=as_json)


def _task(
    noise: float | None, mask: str | None, blur: float | None, kernel: str | None, factor: int | None
) -> str:
    """What is asked for by the options that are there."""
    ways = {"--mask": mask, "--blur": blur, "--kernel": kernel, "--factor": factor}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} exclude each other: do one after the other.")
    if given:
        return {"--mask": "inpaint", "--factor": "enlarge"}.get(given[0], "deblur")
    if not noise:
        raise click.UsageError(
            "say what is wrong with the image: how much --noise there is, or one of --mask, --blur, --kernel, --factor."
        )
    return "denoise"


def _known(path: str, shot: Photograph) -> np.ndarray:
    """The mask in a file, which has the size of the image."""
    from mixcoder.cli import photographs
    from mixcoder.errors import DataError

    known = photographs.read_mask(path)
    if known.shape != shot.pixels.shape[-2:]:
        raise DataError(
            f"{path} has {_size(known.shape)} pixels, but {shot.path} has {_size(shot.pixels.shape[-2:])}."
        )
    if not known.any():
        raise DataError(f"{path} is black everywhere: there is nothing to restore from.")
    return known


def _pixels(shot: Photograph, known: np.ndarray | None) -> Tensor:
    """The image as a tensor; what a mask hides may be anything, the rest is finite."""
    import numpy as np
    import torch

    from mixcoder.errors import DataError

    pixels = shot.pixels if known is None else np.where(known, shot.pixels, np.float32(0))
    if not np.isfinite(pixels).all():
        where = "" if known is None else " where the mask says that they are known"
        raise DataError(f"{shot.path} holds NaN or infinity{where}: hide such pixels with --mask.")
    return torch.from_numpy(pixels)


def _kernel(blur: float | None, path: str | None, shot: Photograph) -> Tensor | None:
    """The kernel of the blur, of sum one and no larger than the image."""
    import torch

    from mixcoder.cli import photographs
    from mixcoder.errors import DataError
    from mixcoder.sensing import Blur

    shape = shot.pixels.shape[-2:]
    if blur is not None:
        if 3 * blur > min(shape) // 2:
            raise DataError(f"A blur of {blur:g} pixels is wider than {shot.path}, {_size(shape)} pixels.")
        return Blur.gaussian(blur, shape).kernel
    if path is None:
        return None
    kernel = torch.as_tensor(photographs.read_matrix(path))
    if kernel.shape[0] > shape[0] or kernel.shape[1] > shape[1]:
        raise DataError(f"{path}, {_size(kernel.shape)}, is larger than {shot.path}, {_size(shape)} pixels.")
    if not float(kernel.sum()) > 0:
        raise DataError(
            f"{path}: the numbers of a kernel add up to {float(kernel.sum()):g}, not to more than 0."
        )
    return kernel / kernel.sum()


def _restorer(path: str | None) -> tuple[Any, EPLL]:
    """The mixture of patches in a file, or the one that comes along, and what restores with it."""
    import mixcoder
    from mixcoder.cli import models
    from mixcoder.sensing import EPLL

    if path is None:
        fitted = mixcoder.load_patch_prior()
        return fitted, EPLL.of(fitted.model_)
    fitted = models.load(path)
    try:
        return fitted, EPLL.of(fitted.model_)
    except (TypeError, ValueError) as error:
        raise click.UsageError(
            f"{click.format_filename(path)} is no Gaussian mixture of square patches; mixcoder.fit_patches fits one."
        ) from error


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape)
