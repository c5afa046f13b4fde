"""Deep compressed sensing: a decoder that is trained so that few gradient steps on its code suffice.

A code z is found by three steps on |y - F G(z)|^2 from a random start, and decoder G, measurements F and the step size
are trained through these steps, with a penalty that keeps F from bringing images together that lie apart (restricted
isometry). At the same number of measurements: the exact posterior mean of a mixture behind random measurements and
behind its principal axes, where nothing is trained by descent.

Wu, Rosca & Lillicrap (2019), "Deep compressed sensing", algorithm 1 and equations 9 and 11.

    python examples/deep_compressed_sensing.py
"""

from __future__ import annotations

import warnings

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mixcoder import KMeans
from mixcoder.errors import DegenerateFeatureWarning
from mixcoder.sensing import GaussianPrior, GaussianRandom, designed_operator, posterior, shrunk_prior


class DeepSensing(nn.Module):
    """A decoder of codes on the sphere, a linear measurement, and the steps that lead from one to the other."""

    def __init__(
        self, n_features: int, n_measurements: int, n_latent: int, n_steps: int, matrix: Tensor
    ) -> None:
        super().__init__()
        self.n_latent, self.n_steps = n_latent, n_steps
        self.decode = nn.Sequential(
            nn.Linear(n_latent, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, n_features),
        )
        self.measure = nn.Linear(n_features, n_measurements, bias=False)
        self.log_step = nn.Parameter(torch.tensor(0.01).log())
        with torch.no_grad():
            self.measure.weight.copy_(matrix)

    def recover(self, y: Tensor, generator: torch.Generator, *, train: bool = False) -> Tensor:
        """Return the rows that a few steps from a random code lead to."""
        z = torch.randn(len(y), self.n_latent, generator=generator)
        z = nn.functional.normalize(z, dim=1).requires_grad_()
        for _ in range(self.n_steps):
            apart = (y - self.measure(self.decode(z))).square().sum()
            (slope,) = torch.autograd.grad(apart, z, create_graph=train)
            z = nn.functional.normalize(z - self.log_step.exp() * slope, dim=1)
            if not train:
                z = z.detach().requires_grad_()
        return self.decode(z)

    def loss(self, x: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
        """Return how far measurements of recovered rows are from those of the rows, and F from an isometry."""
        seen = self.measure(x)
        found = self.recover(
            seen + noise_std * torch.randn(seen.shape, generator=generator), generator, train=True
        )
        apart = x.new_zeros(())
        for a, b in ((x, x.roll(1, 0)), (x, found), (x.roll(1, 0), found)):
            apart = apart + (self.measure(a - b).norm(dim=1) - (a - b).norm(dim=1)).square().mean()
        return (found - x).square().sum(1).mean() + apart


def mixture_of(x: Tensor) -> GaussianPrior:
    """Return a mixture of twenty full Gaussians whose covariances share what each has too few rows for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateFeatureWarning)  # some pixels of digits are never inked
        return shrunk_prior(KMeans(20, random_state=0).fit(x).model_, x)


def run(
    n_measurements: int = 8, noise_std: float = 0.1, n_latent: int = 32, n_epochs: int = 150, n_steps: int = 3
) -> dict[str, float]:
    """Return the mean squared error per test image of each method."""
    x = torch.as_tensor(load_digits().data / 16.0).float()
    train_x, test_x = x[:1297], x[1297:]
    m, d = n_measurements, x.shape[1]
    generator = torch.Generator().manual_seed(0)
    random = GaussianRandom(m, d, seed=0, scale=m**-0.5)
    model = DeepSensing(d, m, n_latent, n_steps, random.matrix(x))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(train_x), generator=generator).split(64):
            optimiser.zero_grad()
            model.loss(train_x[rows], noise_std, generator).backward()
            optimiser.step()
    noise = noise_std * torch.randn(len(test_x), m, generator=generator)
    with torch.no_grad():
        seen = model.measure(test_x) + noise
    mixture = mixture_of(train_x)
    axes = designed_operator(mixture, m)
    # As loud as the learned measurements are, on average.
    axes = axes.values * (float(model.measure.weight.detach().square().sum()) / m) ** 0.5
    return {
        "the mean image": _error(train_x.mean(0), test_x),
        f"deep compressed sensing, {n_steps} steps": _error(model.recover(seen, generator).detach(), test_x),
        "mixture, random measurements": _error(
            posterior(mixture, random.apply(test_x) + noise, random, noise_std**2).mean, test_x
        ),
        "mixture, principal axes": _error(
            posterior(mixture, test_x @ axes.to(test_x).T + noise, axes, noise_std**2).mean, test_x
        ),
    }


def _error(estimate: Tensor, x: Tensor) -> float:
    return float((estimate - x).square().sum(1).mean())


if __name__ == "__main__":
    for method, error in run().items():
        print(f"{method:34s} {error:.4f}")
