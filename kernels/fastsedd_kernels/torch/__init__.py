"""The kernels inside PyTorch models: `accelerate(model)`. An extra; nothing else of this package imports PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastsedd_kernels.torch needs PyTorch: pip install 'fastsedd[torch]'") from error

from fastsedd_kernels.torch.acceleration import Acceleration, accelerate

__all__ = ["Acceleration", "accelerate"]
