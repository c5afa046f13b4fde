"""An image from few random measurements, with an untrained network as the only prior (CS-DIP).

The weights of a convolutional decoder, whose input stays fixed, are fitted to y = H x + e; that natural images come out
before noise does is all that the network knows of images. A tenth of the measurements is held out and says when to
stop: nothing else is there to say it. Beside it: least squares of least norm, which knows nothing.

Van Veen, Jalal, Soltanolkotabi, Price, Vishwanath & Dimakis (2018), "Compressed sensing with deep image prior and
learned regularization"; Ulyanov, Vedaldi & Lempitsky (2018), "Deep image prior".

    python examples/deep_image_prior.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from mixcoder.sensing import GaussianRandom


def photograph(name: str, top: int, left: int, side: int) -> Tensor:
    """Return a grey square of a photograph at a quarter of its size, in [0, 1]."""
    grey = torch.as_tensor(load_sample_image(name) / 255.0) @ torch.tensor([0.2125, 0.7154, 0.0721]).double()
    square = grey[top : top + 4 * side, left : left + 4 * side]
    return square.reshape(side, 4, side, 4).mean((1, 3)).float()


def untrained_decoder(side: int, channels: int, generator: torch.Generator) -> nn.Sequential:
    """Return a network from (1, channels, side / 8, side / 8) to (1, 1, side, side)."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    network = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1), nn.Sigmoid())
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 4:
                fan_in = weights[0].numel()
                weights.copy_(torch.randn(weights.shape, generator=generator) * (2 / fan_in) ** 0.5)
    return network


def recover(
    y: Tensor,
    operator: GaussianRandom,
    side: int,
    n_steps: int,
    generator: torch.Generator,
    channels: int = 32,
) -> tuple[Tensor, int]:
    """Return the image whose held-out measurements were predicted best, and the step it was found at."""
    matrix = operator.matrix(y)
    held = torch.zeros(len(y), dtype=torch.bool)
    held[torch.randperm(len(y), generator=generator)[: max(1, len(y) // 10)]] = True
    network = untrained_decoder(side, channels, generator)
    code = torch.rand(1, channels, side // 8, side // 8, generator=generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    best, least, when = torch.zeros(side, side), float("inf"), 0
    for step in range(n_steps):
        image = network(code)
        apart = (y - matrix @ image.flatten()).square()
        optimiser.zero_grad()
        apart[~held].mean().backward()
        optimiser.step()
        judged = float(apart[held].mean().detach())
        if judged < least:
            best, least, when = image.detach()[0, 0], judged, step
    return best, when


def run(side: int = 32, share: float = 0.3, noise_std: float = 0.01, n_steps: int = 2000) -> dict[str, float]:
    """Return the mean squared error of each method for one image."""
    generator = torch.Generator().manual_seed(0)
    image = photograph("china.jpg", 40, 260, side)
    m = round(share * side**2)
    operator = GaussianRandom(m, side**2, seed=0, scale=m**-0.5)
    y = operator.apply(image.reshape(1, -1))[0]
    y = y + noise_std * torch.randn(y.shape, generator=generator)
    found, _ = recover(y, operator, side, n_steps, generator)
    matrix = operator.matrix(y)
    grey = image.mean()  # the fairer start of least squares: it need not find the level of grey
    least = (
        grey + torch.linalg.lstsq(matrix, (y - matrix.sum(1) * grey)[:, None], driver="gelsd").solution[:, 0]
    )
    return {
        "one grey": float((image - grey).square().mean()),
        "least squares of least norm": float((image - least.reshape(side, side)).square().mean()),
        "deep image prior": float((image - found).square().mean()),
    }


if __name__ == "__main__":
    for method, error in run().items():
        print(f"{method:28s} {error:.5f}")
