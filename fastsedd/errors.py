"""The errors of everything that is wrong with a checkpoint's files, or keeps them out of reach."""


class CheckpointError(ValueError):
    """One line: which file, tensor or key, what it holds, what is allowed."""


class UnavailableError(CheckpointError):
    """Nothing is wrong with the file, as far as can be told: the network or an optional library is not there."""
