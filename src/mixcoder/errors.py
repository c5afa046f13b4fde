"""What can go wrong, by name.

Every exception of this package derives from `MixcoderError`, so one ``except`` holds them all; each also
derives from the built-in that a reader would expect. Errors about constructor parameters and about unfitted
estimators stay scikit-learn's own.

    MixcoderError
    |-- DataError (ValueError)              the rows
    |   |-- DataTypeError (TypeError)       the rows are no numbers: dates, text, a sparse matrix
    |   `-- DataChangedError                the rows are no longer those that were read first
    |-- FitError (ValueError)               the fit
    |-- EngineError (RuntimeError)          where the fit runs
    |   |-- EngineLostError                 the scheduler is gone
    |   `-- EngineStalledError              nothing has ended for too long
    `-- ModelFileError (ValueError)         the file
        |-- CorruptModelError               damaged, or not a model file
        |-- UnsupportedVersionError         written in a newer format
        `-- UnknownModelError               holds a kind of model that is not registered here

Examples
--------
>>> issubclass(CorruptModelError, ModelFileError) and issubclass(ModelFileError, ValueError)
True
"""

__all__ = [
    "CorruptModelError",
    "DataChangedError",
    "DataError",
    "DataTypeError",
    "DegenerateComponentWarning",
    "DegenerateFeatureWarning",
    "EmptyRowWarning",
    "EngineError",
    "EngineLostError",
    "EngineStalledError",
    "FitError",
    "MissingCodeWarning",
    "MixcoderError",
    "ModelFileError",
    "OverfitWarning",
    "PrecisionWarning",
    "UnknownModelError",
    "UnsupportedVersionError",
]


class MixcoderError(Exception):
    """Base of every exception that this package raises on its own account."""


class DataError(MixcoderError, ValueError):
    """Raised when rows cannot be used: wrong shape or type, a value not finite, a negative weight."""


class DataTypeError(DataError, TypeError):
    """Raised when rows are of a kind that is no table of real numbers, though NumPy might make one of it."""


class DataChangedError(DataError):
    """Raised when rows differ from those read before: a file shrank, a resumed fit finds other data."""


class FitError(MixcoderError, ValueError):
    """Raised when valid rows admit no finite model; the estimator is left as it was."""


class EngineError(MixcoderError, RuntimeError):
    """Raised when the workers, not the data, fail: none left, out of memory, no answer in time."""


class EngineLostError(EngineError):
    """Raised when the one who hands out the work is gone; a checkpoint is what a fit can go on from."""


class EngineStalledError(EngineError):
    """Raised when no job of a fit has ended for longer than ``stall_timeout``, also at a second try."""


class ModelFileError(MixcoderError, ValueError):
    """Base of the reasons to refuse a model file; one that cannot be opened raises ``OSError`` instead."""


class CorruptModelError(ModelFileError):
    """Raised when a file is damaged, truncated, no model file, or not the one whose digest was given."""


class UnsupportedVersionError(ModelFileError):
    """Raised when a file is whole, but its format is newer than this version of the package can read."""


class UnknownModelError(ModelFileError):
    """Raised when a file is whole, but its kind is not registered; nothing is imported by name to find it."""


class DegenerateComponentWarning(UserWarning):
    """Issued when a component lost its rows or its spread and was repaired; names the components."""


class DegenerateFeatureWarning(UserWarning):
    """Issued when a column carries no information (it is constant, or copies another); names the columns."""


class MissingCodeWarning(UserWarning):
    """Issued when the embedded code of a row does not exist: its objective still rises at infinity; names the rows."""


class PrecisionWarning(UserWarning):
    """Issued when results keep fewer digits than their type suggests, as in an ill-conditioned covariance."""


class EmptyRowWarning(UserWarning):
    """Issued when rows hold no value at all and are left out of a fit; says how many."""


class OverfitWarning(UserWarning):
    """Issued when a model has too many parameters for its rows, or a component stands on very few of them."""
