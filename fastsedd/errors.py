"""The error of everything that is wrong with a checkpoint's files."""


class CheckpointError(ValueError):
    """One line: which file, tensor or key, what it holds, what is allowed."""
