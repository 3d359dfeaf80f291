"""The exception types of the library, each a `ValueError` whose text says what was found and what to do."""


class SeqrecError(ValueError):
    """Base of every error that the library raises on purpose."""


class DataError(SeqrecError):
    """A file, column, row or identifier violates the data contract."""


class ConfigError(SeqrecError):
    """A configuration key, or the value of a key or an argument, is unknown, of the wrong type, or out of range."""


class ShapeError(SeqrecError):
    """Shapes or dtypes of arrays do not match; raised at trace time."""


class CheckpointError(SeqrecError):
    """A run or checkpoint directory is missing, incomplete, or belongs to other data."""


class DivergenceError(SeqrecError):
    """Training produced values that are not finite."""


class MissingExtraError(SeqrecError):
    """An optional dependency is needed and not installed; the text names the extra."""
