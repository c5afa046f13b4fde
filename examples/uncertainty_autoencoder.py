"""An uncertainty autoencoder: measurements y = W x + e learned together with a decoder; PCA is its linear case.

The encoder W and the decoder minimise E |x - g(W x + e)|^2, the negative of a bound on the information I(x; y) under
a Gaussian decoder. The rows of W are orthonormal, so that the noise cannot be drowned by scale.

* With a linear decoder the answer is known: W spans the m principal axes of the data and the error is that of
  `designed_operator`, in closed form. Gradient descent finds it.
* With a network as the decoder it is lower. So is that of the exact posterior mean of a mixture, behind the same
  principal axes, without any descent.

Grover & Ermon (2019), "Uncertainty autoencoders: learning compressed representations via variational information
maximization", theorem 1 and section 3.

    python examples/uncertainty_autoencoder.py
"""

from __future__ import annotations

import warnings

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mixcoder import KMeans
from mixcoder.errors import DegenerateFeatureWarning
from mixcoder.sensing import GaussianPrior, designed_operator, gaussian_error, posterior, shrunk_prior


def digits() -> tuple[Tensor, Tensor]:
    """Return images of digits to train and to test on, shape (n, 64), in [0, 1]."""
    x = torch.as_tensor(load_digits().data / 16.0).float()
    return x[:1297], x[1297:]


def orthonormal(weights: Tensor) -> Tensor:
    """Return the nearest matrix of orthonormal rows."""
    left, _, right = torch.linalg.svd(weights, full_matrices=False)
    return left @ right


def train(
    x: Tensor,
    n_measurements: int,
    noise_std: float,
    decoder: nn.Module,
    n_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Fit W and the decoder to rows x; return W, shape (m, d), of orthonormal rows."""
    raw = (0.1 * torch.randn(n_measurements, x.shape[1], generator=generator)).requires_grad_()
    optimiser = torch.optim.Adam([raw, *decoder.parameters()], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(n_steps):
        batch = x[torch.randint(len(x), (1024,), generator=generator)]
        y = batch @ orthonormal(raw).T
        y = y + noise_std * torch.randn(y.shape, generator=generator)
        optimiser.zero_grad()
        (decoder(y) - batch).square().sum(1).mean().backward()
        optimiser.step()
        schedule.step()
    return orthonormal(raw.detach())


def train_linear(covariance: Tensor, n_measurements: int, noise_variance: float, n_steps: int) -> Tensor:
    """Return W fitted with the best linear decoder there is for it, which is in closed form at every step."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(
        n_measurements, len(covariance), generator=generator, dtype=torch.float64
    ).requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(n_steps):
        weights = orthonormal(raw)
        seen = weights @ covariance @ weights.T + noise_variance * torch.eye(n_measurements)
        optimiser.zero_grad()
        # E |x - g(W x + e)|^2 of the decoder g(y) = Sigma W' (W Sigma W' + s^2 I)^-1 y, all rows centred.
        gain = torch.linalg.solve(seen, weights @ covariance)
        (covariance.trace() - ((weights @ covariance) * gain).sum()).backward()
        optimiser.step()
        schedule.step()
    return orthonormal(raw.detach())


def one_gaussian(x: Tensor) -> GaussianPrior:
    """Return the Gaussian with the mean and covariance of the rows."""
    rows = x.double()
    covariance = torch.cov(rows.T, correction=0)
    return GaussianPrior(
        torch.zeros(1).double(), rows.mean(0), torch.zeros(1, x.shape[1]).double(), covariance[None]
    )


def mixture_of(x: Tensor) -> GaussianPrior:
    """Return a mixture of twenty full Gaussians whose covariances share what each has too few rows for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateFeatureWarning)  # some pixels of digits are never inked
        return shrunk_prior(KMeans(20, random_state=0).fit(x).model_, x)


def run(n_measurements: int = 8, noise_std: float = 0.1, n_steps: int = 3000) -> dict[str, float]:
    """Return the mean squared error per image, and how far the linear case is from PCA."""
    train_x, test_x = digits()
    m, d, s2 = n_measurements, train_x.shape[1], noise_std**2
    generator = torch.Generator().manual_seed(0)
    gaussian = one_gaussian(train_x)
    axes = designed_operator(gaussian, m)

    weights = train_linear(gaussian.spreads[0], m, s2, n_steps)
    cosines = torch.linalg.svdvals(weights @ axes.values.T)

    network = nn.Sequential(nn.Linear(m, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, d))
    learned = train(train_x, m, noise_std, network, n_steps, generator)

    noise = noise_std * torch.randn(len(test_x), m, generator=generator)
    with torch.no_grad():
        by_network = network(test_x @ learned.T + noise)
    seen = axes.apply(test_x) + noise
    mixture = mixture_of(train_x)
    return {
        "least error of a linear code (PCA), closed form": float(
            gaussian_error(gaussian.spreads[0], axes, s2)
        ),
        "linear encoder and decoder, by descent": float(gaussian_error(gaussian.spreads[0], weights, s2)),
        "least cosine between the two subspaces": float(cosines.min()),
        "test: one Gaussian behind PCA": _error(posterior(gaussian, seen, axes, s2).mean, test_x),
        "test: learned encoder, network as decoder": _error(by_network, test_x),
        "test: mixture behind PCA, exact posterior": _error(posterior(mixture, seen, axes, s2).mean, test_x),
    }


def _error(estimate: Tensor, x: Tensor) -> float:
    return float((estimate - x).square().sum(1).mean())


if __name__ == "__main__":
    for what, value in run().items():
        print(f"{what:50s} {value:.4f}")
