"""Photographs in files, PNG or NPY, as floating images from 0 to 1, and back again in the form that they came in."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from mixcoder.errors import DataError

__all__ = ["EXTENSIONS", "Photograph", "kind_of", "read", "read_mask", "read_matrix", "write"]

EXTENSIONS = (".png", ".npy")

# A floating image may leave [0, 1] by its noise, but not by a factor of 255.
_LOWEST, _HIGHEST = -2.0, 3.0


@dataclass(frozen=True)
class Photograph:
    """An image and how its file held it.

    Parameters
    ----------
    path : str
    pixels : ndarray, shape (height, width) or (3, height, width)
        float32, from 0 to 1 but for noise.
    full : int
        What 1 is in the file: 255 or 65535; 1 for floating numbers.
    """

    path: str
    pixels: np.ndarray
    full: int

    @property
    def rounding(self) -> float:
        """Standard deviation of what was lost when the pixels were rounded to whole numbers."""
        return 0.0 if self.full == 1 else 1 / (self.full * 12**0.5)


def kind_of(path: str) -> str:
    """The extension of an image file, in lower case.

    Raises
    ------
    click.UsageError
        If it is not one of ours.
    """
    kind = Path(path).suffix.lower()
    if kind not in EXTENSIONS:
        raise click.UsageError(
            f"{click.format_filename(path)}: the extension of an image must be one of {', '.join(EXTENSIONS)}."
        )
    return kind


def read(path: str) -> Photograph:
    """The photograph in a file; grey, or red, green and blue.

    Raises
    ------
    DataError
        If the file is missing, damaged, or holds something else.
    """
    values = _array(path)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or not values.size:
        raise DataError(
            f"{path} has the shape {values.shape}: (height, width) or (height, width, 3) was expected."
        )
    if values.dtype.kind == "f":
        full = 1
        seen = values[np.isfinite(values)]
        if seen.size and not _LOWEST <= float(seen.min()) <= float(seen.max()) <= _HIGHEST:
            raise DataError(
                f"{path} holds numbers from {seen.min():g} to {seen.max():g}: floating images go from 0 to 1; divide "
                "them, or save them as uint8 or uint16."
            )
    elif values.dtype in (np.uint8, np.uint16):
        full = int(np.iinfo(values.dtype).max)
    else:
        raise DataError(f"{path} holds {values.dtype}: uint8, uint16 or floating pixels were expected.")
    pixels = values.astype(np.float32) / np.float32(full)
    return Photograph(
        path, np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), full
    )


def read_mask(path: str) -> np.ndarray:
    """The mask (height, width) in a file: true where it is true, or nearer to white than to black.

    Raises
    ------
    DataError
        If the file is missing, damaged, or holds something else.
    """
    values = _array(path)
    if values.ndim == 3 and (values == values[:, :, :1]).all():
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise DataError(f"{path} has the shape {values.shape}: a mask is grey, of shape (height, width).")
    if values.dtype == bool:
        return values
    if values.dtype in (np.uint8, np.uint16) and values.max(initial=0) > 1:
        return values > np.iinfo(values.dtype).max // 2
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"{path}: a mask of {values.dtype} holds 0 and 1 only.")
    return values == 1


def read_matrix(path: str) -> np.ndarray:
    """The matrix of floating numbers in an NPY file, or the grey levels of a PNG.

    Raises
    ------
    DataError
        If the file is missing, damaged, or holds something else.
    """
    values = _array(path)
    if values.ndim == 3 and (values == values[:, :, :1]).all():
        values = values[:, :, 0]
    if (
        values.ndim != 2
        or not values.size
        or values.dtype.kind not in "biuf"
        or not np.isfinite(values).all()
    ):
        raise DataError(f"{path} has the shape {values.shape}: a finite matrix was expected.")
    return values.astype(np.float64)


def write(draft: Path, pixels: np.ndarray, like: Photograph, kind: str) -> None:
    """Write an image as ``like`` was: whole numbers are cut to their range; floating ones become 8 bits in a PNG."""
    values = pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0)
    # An RGB image of 16 bits has no place in Pillow: it is written with 8.
    full = 255 if kind == ".png" and (like.full == 1 or values.ndim == 3) else like.full
    if full > 1:
        dtype = np.uint8 if full == 255 else np.uint16
        values = np.rint(np.clip(values.astype(np.float64), 0, 1) * full).astype(dtype)
    if kind == ".npy":
        with open(draft, "wb") as stream:
            np.save(stream, values, allow_pickle=False)
        return
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(values)).save(draft, format="PNG")


def _array(path: str) -> np.ndarray:
    shown = click.format_filename(path)
    try:
        return _png(path) if kind_of(path) == ".png" else np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{shown}: no such file.") from None
    except (OSError, EOFError, ValueError, SyntaxError) as error:
        # Pillow says SyntaxError of a broken chunk.
        raise DataError(f"{shown} is not a whole {kind_of(path)[1:].upper()} file ({error}).") from error


def _png(path: str) -> np.ndarray:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=["PNG"]) as image:
                image.load()
                if image.has_transparency_data and np.asarray(image.convert("RGBA"))[:, :, 3].min() < 255:
                    raise DataError(
                        f"{click.format_filename(path)} has transparent pixels: lay it on a background first."
                    )
                if image.mode.startswith("I"):  # 16 bits of grey
                    return np.asarray(image).astype(np.uint16)
                grey = image.mode in ("1", "L", "LA")
                return np.asarray(image.convert("L" if grey else "RGB"))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise DataError(f"{click.format_filename(path)} is too large: {error}") from error
