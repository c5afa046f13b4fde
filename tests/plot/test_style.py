"""Looks are told apart without colour, and their colours are told apart in grey and by colour-blind readers."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.colors import to_rgb

from mixcoder.plot._style import PALETTE, look, ramp, shades, thin

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
DICHROMATS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(
        0, 1
    )
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 1e-6))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_first_280_looks_are_all_different():
    assert len({look(k) for k in range(280)}) == 280


def test_colours_differ_for_every_kind_of_colour_vision():
    for matrix in [np.eye(3), *DICHROMATS.values()]:
        seen = [lab(np.array(matrix) @ linear(color)) for color in PALETTE]
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(a - b) > 15


def test_neighbours_differ_in_marker_line_and_grey():
    for k in range(30):
        assert look(k).marker != look(k + 1).marker
        assert look(k).line != look(k + 1).line
    lightness = [lab(linear(color))[0] for color in PALETTE]
    assert min(abs(a - b) for a, b in itertools.pairwise([*lightness, lightness[0]])) > 20


def test_ramps_fall_evenly_in_lightness():
    for colors in (ramp(), shades()):
        lightness = [lab(linear(colors(t)))[0] for t in np.linspace(0, 1, 20)]
        assert (np.diff(lightness) < 0).all()


def test_thinning_keeps_both_ends():
    for n, most in ((10, 3), (5, 5), (1000, 7)):
        chosen = thin(n, most)
        assert (chosen[0], chosen[-1], len(chosen)) == (0, n - 1, min(n, most))
        assert (np.diff(chosen) > 0).all()
