"""Estimators to and from model files. Classes come from a fixed list, never from names in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from inspect import signature
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor

from mixcoder import modelfile
from mixcoder._typing import HardCode
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import Family, Params
from mixcoder.encoders import Annealed, Argmax, Encoder, Posterior, Tempered, Truncated
from mixcoder.errors import CorruptModelError, UnknownModelError
from mixcoder.ops.frame import Frame
from mixcoder.statistics import Statistics

_ENCODERS: dict[str, type[Encoder]] = {
    c.__name__: c for c in (Annealed, Argmax, Posterior, Tempered, Truncated)
}

# Fitted scalars and lists that are not part of the mixture itself, by estimator.
_DENSITY_STATE = ("converged_", "stop_reason_", "n_iter_", "lower_bound_", "lower_bounds_", "history_")
_STATE = {
    "BayesianGaussianMixture": (
        *_DENSITY_STATE,
        "_log_mass",
        "_posterior_temperature",
        "weight_concentration_prior_",
        "mean_precision_prior_",
        "degrees_of_freedom_prior_",
    ),
    "EmbeddedMixture": ("converged_", "stop_reason_", "n_iter_", "lower_bound_", "history_"),
    "FactorAnalyzerMixture": _DENSITY_STATE,
    "GaussianMixture": _DENSITY_STATE,
    "Mixture": _DENSITY_STATE,
    "PPCAMixture": _DENSITY_STATE,
    "KMeans": ("converged_", "stop_reason_", "n_iter_", "inertia_", "history_", "_weight_unit"),
    "SubspaceMixture": ("converged_", "stop_reason_", "n_iter_", "inertia_", "history_"),
}
_ARRAYS = {
    "BayesianGaussianMixture": (
        "_mean_precisions",
        "_degrees_of_freedom",
        "_concentrations",
        "_mean_prior",
        "_covariance_prior",
    ),
    "EmbeddedMixture": ("embedding_", "code_exists_", "absorber_share_", "_anchors"),
    "KMeans": ("labels_", "_cluster_counts"),
    "SubspaceMixture": ("_cluster_counts",),
}
_MAP = "ParametricEmbedding"
_MAP_ARRAYS = ("anchors_", "embedding_", "n_newton_steps_")
_MAP_STATE = ("history_", "n_iter_", "gradient_norm_", "converged_")
_AVERAGE = "ModelAverage"

_SUMS = ("FactorAnalyzerMixture", "GaussianMixture", "Mixture", "PPCAMixture", "SubspaceMixture")


def _estimators() -> dict[str, type[Any]]:
    from mixcoder.estimators.bayesian_gaussian_mixture import BayesianGaussianMixture
    from mixcoder.estimators.embedded_mixture import EmbeddedMixture
    from mixcoder.estimators.gaussian_mixture import GaussianMixture
    from mixcoder.estimators.k_means import KMeans
    from mixcoder.estimators.linear_mixtures import FactorAnalyzerMixture, PPCAMixture
    from mixcoder.estimators.mixture import Mixture
    from mixcoder.estimators.subspace_mixture import SubspaceMixture

    known = (
        BayesianGaussianMixture,
        EmbeddedMixture,
        FactorAnalyzerMixture,
        GaussianMixture,
        KMeans,
        Mixture,
        PPCAMixture,
        SubspaceMixture,
    )
    return {c.__name__: c for c in known}


def _families() -> dict[str, type[Family[Any, Any]]]:
    from mixcoder.estimators.mixture import families

    return {c.__name__: c for c in families().values()}


def save(estimator: Any, path: Any, *, overwrite: bool = True) -> str:
    """Write a fitted estimator to one file; return the SHA-256 of its content."""
    pack = {_MAP: _pack_map, _AVERAGE: _pack_average}.get(type(estimator).__name__, _pack)
    arrays, metadata = pack(estimator)
    return modelfile.write(path, type(estimator).__name__, arrays, metadata, overwrite=overwrite)


def _pack(estimator: Any) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Return the arrays and the metadata of a fitted mixture."""
    kind = type(estimator).__name__
    if kind not in _STATE or type(estimator) is not _estimators()[kind]:
        raise UnknownModelError(
            f"{kind} is not one of {sorted(_STATE)} of mixcoder; save an instance "
            "of one of these, or pickle it."
        )
    if getattr(estimator, "_pending", None) is not None:
        raise ValueError(
            "Batches wait for an M-step: call partial_fit with maximize=True before the model is saved."
        )
    model: MixtureAutoencoder = estimator.model_
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "log_weights": _array(model.log_weights),
        "frame.shift": _array(model.frame.shift),
        "frame.scale": _array(model.frame.scale),
        "magnitude": _array(model.magnitude),
    }
    params = _pack_tensors(model.params, "params", arrays)
    sums = (
        _pack_tensors(estimator._sums, "sums", arrays)
        if kind in _SUMS and estimator._sums is not None
        else None
    )
    for name in _ARRAYS.get(kind, ()):
        if not hasattr(estimator, name):
            continue  # a fit to rows elsewhere keeps no label of each
        value = getattr(estimator, name)
        arrays[f"state.{name}"] = _array(value) if isinstance(value, Tensor) else value
    constructor: dict[str, Any] = {}
    for name, value in estimator.get_params(deep=False).items():
        constructor[name] = _pack_parameter(name, value, arrays)
    metadata = {
        "family": _pack_family(model.family),
        "params": params,
        "sums": sums,
        "encoder": _pack_encoder(model.encoder),
        "constructor": constructor,
        "state": {name: _plain(getattr(estimator, name)) for name in _STATE[kind]},
        "dtype": estimator._dtype_name,
        "n_features_in": int(estimator.n_features_in_),
        "feature_names_in": [str(name) for name in getattr(estimator, "feature_names_in_", [])],
    }
    return arrays, metadata


def _pack_map(estimator: Any) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Return the arrays and the metadata of a fitted map, with the model whose probabilities it shows."""
    arrays = {f"state.{name}": np.asarray(_cpu(getattr(estimator, name))) for name in _MAP_ARRAYS}
    parameters = estimator.get_params(deep=False)
    model = parameters.pop("model")
    held = None if model is None else _pack_held(model, "model.", arrays)
    metadata = {
        "constructor": {name: {"value": _plain(value)} for name, value in parameters.items()},
        "model": held,
        "state": {name: _plain(getattr(estimator, name)) for name in _MAP_STATE},
        "n_features_in": int(estimator.n_features_in_),
        "feature_names_in": [str(name) for name in getattr(estimator, "feature_names_in_", [])],
    }
    return arrays, metadata


def _pack_average(average: Any) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Return the arrays and the metadata of an average, with all of its models."""
    arrays = {"log_weights": _array(average._log_weights)}
    held = [_pack_held(model, f"models.{m}.", arrays) for m, model in enumerate(average.models)]
    return arrays, {"models": held, "gap": float(average.gap)}


def _rebuild_average(file: modelfile.ModelFile) -> Any:
    from mixcoder.estimators.model_average import ModelAverage

    held = file.metadata["models"]
    models = [_rebuild_held(about, f"models.{m}.", file) for m, about in enumerate(held)]
    log_weights = torch.from_numpy(file.arrays["log_weights"]).clone()
    average = ModelAverage(models, log_weights)
    if abs(float(torch.logsumexp(log_weights, 0))) > 1e-9:
        raise ValueError("the weights do not sum to one")
    average._log_weights, average.gap = log_weights, float(file.metadata["gap"])
    return average


def _pack_held(model: Any, prefix: str, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Return the metadata of a model that another holds; its arrays are added to the other's, under a prefix."""
    frozen = isinstance(model, FrozenEstimator)
    inner = model.estimator if frozen else model
    inside, about = _pack(inner)
    arrays.update({f"{prefix}{name}": array for name, array in inside.items()})
    return {"class": type(inner).__name__, "frozen": frozen, "metadata": about}


def _rebuild_held(held: Mapping[str, Any], prefix: str, file: modelfile.ModelFile) -> Any:
    """Return a model that another holds."""
    known = _estimators()
    if held["class"] not in known:
        raise UnknownModelError(f"holds a {held['class']!r}, which is not one of {sorted(known)}")
    inside = {name.removeprefix(prefix): a for name, a in file.arrays.items() if name.startswith(prefix)}
    inner = modelfile.ModelFile(kind=held["class"], arrays=inside, metadata=held["metadata"], sha256="")
    model = _rebuild(known[held["class"]], inner)
    return FrozenEstimator(model) if held["frozen"] else model


def _rebuild_map(file: modelfile.ModelFile) -> Any:
    from mixcoder.estimators.parametric_embedding import ParametricEmbedding

    metadata = file.metadata
    held = metadata["model"]
    model = None if held is None else _rebuild_held(held, "model.", file)
    constructor = {name: packed["value"] for name, packed in metadata["constructor"].items()}
    estimator = ParametricEmbedding(model=model, **constructor)
    estimator._validate_params()
    for name in _MAP_ARRAYS:
        setattr(estimator, name, file.arrays[f"state.{name}"])
    for name in _MAP_STATE:
        setattr(estimator, name, metadata["state"][name])
    if estimator.anchors_.ndim != 2 or estimator.anchors_.shape[1] != estimator.embedding_.shape[1]:
        raise ValueError("the numbers of axes disagree")
    if not (np.isfinite(estimator.anchors_).all() and np.isfinite(estimator.embedding_).all()):
        raise ValueError("a place is not finite")
    estimator.n_features_in_ = int(metadata["n_features_in"])
    if metadata["feature_names_in"]:
        estimator.feature_names_in_ = np.array(metadata["feature_names_in"], dtype=object)
    return estimator


def _cpu(value: Any) -> Any:
    return _array(value) if isinstance(value, Tensor) else value


def load(path: Any, *, expected_sha256: str | None = None) -> Any:
    """Return the fitted estimator that its ``save`` wrote.

    Parameters
    ----------
    path : str or path-like
    expected_sha256 : str, optional
        What ``save`` returned; a file with other content is refused.

    Raises
    ------
    ModelFileError
        If the file is damaged, was written by a newer version, or holds no model of this library. Loading
        never runs code from the file.

    Examples
    --------
    >>> import tempfile
    >>> from mixcoder import KMeans
    >>> model = KMeans(2, random_state=0).fit([[0.0], [0.1], [5.0], [5.1]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     digest = model.save(f"{folder}/two.mixcoder")
    ...     same = load(f"{folder}/two.mixcoder")
    >>> bool((same.cluster_centers_ == model.cluster_centers_).all())
    True
    """
    file = modelfile.read(path, expected_sha256=expected_sha256)
    known = _estimators()
    holders = {_MAP: _rebuild_map, _AVERAGE: _rebuild_average}
    if file.kind not in known and file.kind not in holders:
        raise UnknownModelError(
            f"{path}: holds a {file.kind!r}, which is not one of {sorted([*known, *holders])}."
        )
    try:
        return holders[file.kind](file) if file.kind in holders else _rebuild(known[file.kind], file)
    except UnknownModelError as error:
        raise UnknownModelError(f"{path}: {error}") from error
    except Exception as error:
        raise CorruptModelError(f"{path}: the content does not make a valid {file.kind}: {error}") from error


def _rebuild(cls: type[Any], file: modelfile.ModelFile) -> Any:
    # Clones: where an array begins in memory decides the last bit of a product, and torch begins at lines of 64.
    metadata = file.metadata
    arrays = {name: torch.from_numpy(array).clone() for name, array in file.arrays.items()}
    family = _unpack_family(metadata["family"])
    params = _unpack_tensors(_example_params(family), metadata["params"], "params", arrays)
    for name, array in arrays.items():
        if (
            array.is_floating_point()
            and name.startswith(("params", "sums"))
            and not bool(torch.isfinite(array).all())
        ):
            raise ValueError(f"array {name!r} is not finite")
    model = MixtureAutoencoder(
        family,
        params,
        arrays["log_weights"],
        _unpack_encoder(metadata["encoder"]),
        Frame(arrays["frame.shift"], arrays["frame.scale"]),
        arrays["magnitude"],
    )
    if not (len(model.frame.scale) == len(model.magnitude) == model.n_features == metadata["n_features_in"]):
        raise ValueError("the numbers of features disagree")
    decoded = model.prototypes()
    if decoded.shape != (model.n_components, model.n_features):
        raise ValueError(f"prototypes have shape {tuple(decoded.shape)}")
    defaults = signature(cls).parameters
    constructor = {
        name: _unpack_parameter(packed, defaults[name].default, file.arrays)
        for name, packed in metadata["constructor"].items()
    }
    estimator = cls(**constructor)
    estimator._validate_params()
    estimator.model_ = model
    estimator._dtype_name = metadata["dtype"]
    if estimator._dtype_name not in ("float32", "float64"):
        raise ValueError(f"dtype {estimator._dtype_name!r}")
    estimator._from_torch = False
    estimator.n_features_in_ = int(metadata["n_features_in"])
    if metadata["feature_names_in"]:
        estimator.feature_names_in_ = np.array(metadata["feature_names_in"], dtype=object)
    if file.kind in _SUMS:
        estimator._sums = None
        if metadata["sums"] is not None:
            estimator._sums = _unpack_sums(
                family, model.params, model.n_features, metadata["sums"], "sums", arrays
            )
            if estimator._sums.counts.shape != model.log_weights.shape:
                raise ValueError("the numbers of components disagree")
    for name in _STATE[file.kind]:
        setattr(estimator, name, metadata["state"][name])
    for name in _ARRAYS.get(file.kind, ()):
        if name == "labels_" and f"state.{name}" not in file.arrays:
            continue
        value = file.arrays[f"state.{name}"]
        setattr(estimator, name, torch.from_numpy(value) if name.startswith("_") else value)
    return estimator


def _array(value: Tensor) -> np.ndarray[Any, Any]:
    return value.numpy(force=True)


def _plain(value: Any) -> Any:
    """Return a value as what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _pack_parameter(name: str, value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Return a constructor parameter as JSON; what cannot be stored is remembered as its default."""
    if isinstance(value, Family):
        return {"family": _pack_family(value)}
    if isinstance(value, Encoder):
        return {"encoder": _pack_encoder(value)}
    if isinstance(value, np.random.RandomState | np.random.Generator) or callable(value):
        # Neither a random state nor a function has a place in a file that never runs code.
        return {"dropped": type(value).__name__}
    if isinstance(value, Tensor | np.ndarray | list | tuple) or hasattr(value, "__array__"):
        array = _array(value) if isinstance(value, Tensor) else np.asarray(value)
        kind = np.int64 if array.dtype.kind in "iub" else np.float64
        arrays[f"constructor.{name}"] = array.astype(kind)
        return {"array": f"constructor.{name}"}
    return {"value": _plain(value)}


def _unpack_parameter(
    packed: Mapping[str, Any], default: Any, arrays: Mapping[str, np.ndarray[Any, Any]]
) -> Any:
    if "family" in packed:
        return _unpack_family(packed["family"])
    if "encoder" in packed:
        return _unpack_encoder(packed["encoder"])
    if "array" in packed:
        return arrays[packed["array"]]
    if "dropped" in packed:
        return default
    return packed["value"]


def _pack_encoder(encoder: Encoder) -> dict[str, Any]:
    name = type(encoder).__name__
    if name not in _ENCODERS:
        raise UnknownModelError(f"Encoder {name} is not one of {sorted(_ENCODERS)}; pickle the estimator.")
    return {"class": name, "fields": _pack_fields(encoder)}


def _unpack_encoder(packed: Mapping[str, Any]) -> Encoder:
    if packed["class"] not in _ENCODERS:
        raise UnknownModelError(f"encoder {packed['class']!r} is not one of {sorted(_ENCODERS)}")
    return _ENCODERS[packed["class"]](**{key: _tuples(value) for key, value in packed["fields"].items()})


def _pack_family(family: Family[Any, Any]) -> dict[str, Any]:
    name = type(family).__name__
    if name not in _families():
        raise UnknownModelError(f"Family {name} is not one of {sorted(_families())}; pickle the estimator.")
    packed: dict[str, Any] = {"class": name, "fields": _pack_fields(family)}
    return packed


def _pack_fields(value: Any) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for entry in fields(value):
        content = getattr(value, entry.name)
        packed[entry.name] = _pack_field(content)
    return packed


def _pack_field(content: Any) -> Any:
    if isinstance(content, Family):
        return {"family": _pack_family(content)}
    if isinstance(content, tuple | list):
        return [_pack_field(part) for part in content]
    if isinstance(content, slice):
        return {"slice": [content.start, content.stop, content.step]}
    return _plain(content)


def _unpack_family(packed: Mapping[str, Any]) -> Family[Any, Any]:
    known = _families()
    if packed["class"] not in known:
        raise UnknownModelError(f"family {packed['class']!r} is not one of {sorted(known)}")
    return known[packed["class"]](**{key: _tuples(value) for key, value in packed["fields"].items()})


def _tuples(value: Any) -> Any:
    """Return lists as tuples, and nested families rebuilt: fields of frozen classes."""
    if isinstance(value, list):
        return tuple(_tuples(entry) for entry in value)
    if isinstance(value, Mapping):
        if "family" in value:
            return _unpack_family(value["family"])
        return slice(*value["slice"])
    return value


def _pack_tensors(
    value: Params | Statistics,
    prefix: str,
    arrays: dict[str, Any],
    convert: Callable[[Tensor], Any] = _array,
) -> dict[str, Any]:
    """Put the tensors of parameters or sums into ``arrays`` and return how to find them again."""
    packed: dict[str, Any] = {}
    for entry in fields(value):
        content, name = getattr(value, entry.name), f"{prefix}.{entry.name}"
        if isinstance(content, tuple):
            packed[entry.name] = [
                _pack_tensors(part, f"{name}.{place}", arrays, convert) for place, part in enumerate(content)
            ]
        elif content is None:
            packed[entry.name] = "absent"
        else:
            arrays[name] = convert(content)
            packed[entry.name] = "array"
    return packed


def _unpack_tensors(
    example: Any, packed: Mapping[str, Any], prefix: str, arrays: Mapping[str, Tensor]
) -> Any:
    """Return parameters or sums; their classes are those of an example."""
    values: dict[str, Any] = {}
    for entry in fields(example):
        found, name = packed[entry.name], f"{prefix}.{entry.name}"
        if found in ("array", "absent"):
            values[entry.name] = arrays[name] if found == "array" else None
        else:
            parts = enumerate(zip(getattr(example, entry.name), found, strict=True))
            values[entry.name] = tuple(
                _unpack_tensors(part, inner, f"{name}.{place}", arrays) for place, (part, inner) in parts
            )
    return type(example)(**values)


def _example_params(family: Any) -> Any:
    """Return parameters of the class that a family has."""
    example = type(family).examples()[0][1]
    if not hasattr(family, "parts"):
        return example
    return replace(example, parts=tuple(_example_params(part) for part, _ in family.parts))


def _unpack_sums(
    family: Any,
    params: Params,
    n_features: int,
    packed: Mapping[str, Any],
    prefix: str,
    arrays: Mapping[str, Tensor],
) -> Any:
    """Return sums of the class of the family's that has the packed fields.

    Those of a first M-step, without parameters, may be of another class than those of later ones.
    """
    device = next(iter(arrays.values())).device
    row = torch.ones(1, n_features, dtype=torch.float64, device=device)
    code = HardCode(torch.zeros(1, dtype=torch.int64, device=device), params.n_components)
    for known in (None, params):
        example = family.statistics(known, row, code)
        if {entry.name for entry in fields(example)} == packed.keys():
            return _unpack_tensors(example, packed, prefix, arrays)
    raise ValueError(f"{prefix} are no sums of {type(family).__name__}")


__all__ = ["load", "save"]
