"""Compressed sensing with a generative model (Bora et al. 2017): our own decoder; a part of a section of sensing.py."""

from __future__ import annotations

import copy
import math
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mixcoder.sensing import decoder_variance, recover_latent

N_LATENT, WIDTH = 20, 500
N_HELD = 500  # training images that stop the training and measure the decoder
N_EPOCHS, WARM_UP, PATIENCE = 100, 20, 15
N_STARTS, N_STEPS = 10, 1000
PENALTY = 0.1  # lambda of the paper


class VAE(nn.Module):
    """784-500-500-20-500-500-784 with ReLU, the paper's autoencoder of digits."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(d, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * N_LATENT)
        )
        self.decoder = nn.Sequential(
            nn.Linear(N_LATENT, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, d)
        )

    def loss(self, x: Tensor, generator: torch.Generator, warmth: float = 1.0) -> Tensor:
        """Return minus the evidence lower bound of an image, in nats; its divergence counts ``warmth`` times."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
        error = binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (error + warmth * divergence) / len(x)

    def generate(self, z: Tensor) -> Tensor:
        """Return images in [0, 1] of codes."""
        return torch.sigmoid(self.decoder(z))


def trained(train: Tensor) -> tuple[VAE, float, str]:
    """Return the autoencoder of the training images, its decoder's variance, and how it was trained."""
    generator = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    order = torch.randperm(len(train), generator=generator)
    held, fit = train[order[:N_HELD]], train[order[N_HELD:]]
    model = VAE(train.shape[1])
    for layer in (*model.encoder, *model.decoder):
        if isinstance(layer, nn.Linear):  # torch's own start, from our generator
            reach = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -reach, reach, generator=generator)
            nn.init.uniform_(layer.bias, -reach, reach, generator=generator)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, state, at = math.inf, copy.deepcopy(model.state_dict()), 0
    for epoch in range(N_EPOCHS):
        for batch in fit[torch.randperm(len(fit), generator=generator)].split(100):
            adam.zero_grad()
            # A divergence that counts in full from the start switches latent axes off.
            model.loss(batch, generator, min(1.0, (epoch + 1) / WARM_UP)).backward()
            adam.step()
        with torch.no_grad():
            now = float(model.loss(held, torch.Generator().manual_seed(1)))
        if epoch + 1 >= WARM_UP and now < best:
            best, state, at = now, copy.deepcopy(model.state_dict()), epoch + 1
        if epoch + 1 >= WARM_UP + PATIENCE and epoch + 1 - at >= PATIENCE:
            break
    model.load_state_dict(state)
    seconds = time.perf_counter() - began
    left = decoder_variance(model.generate, held[:100], N_LATENT, n_starts=2, generator=generator)
    return model, left, f"{at} epochs, {best:.1f} nats an image held out, {seconds:.0f} s"


def recovered(
    model: VAE, left: float, operator: object, y: Tensor, noise_variance: float
) -> tuple[Tensor, ...]:
    """Return G(z), with the paper's penalty and with the decoder's own error in its place, cut to [0, 1]."""
    m = y.shape[1]
    settings = {"n_starts": N_STARTS, "n_steps": N_STEPS, "n_polish": 0}
    plain = recover_latent(
        y.float(),
        operator,
        model.generate,
        N_LATENT,
        PENALTY * m,
        generator=torch.Generator().manual_seed(m),
        **settings,  # type: ignore[arg-type]
    )
    calibrated = recover_latent(
        y.float(),
        operator,
        model.generate,
        N_LATENT,
        noise_variance,
        decoder_variance=left,
        generator=torch.Generator().manual_seed(m),
        **settings,  # type: ignore[arg-type]
    )
    return plain.decoded.clamp(0, 1), calibrated.rows.clamp(0, 1)
