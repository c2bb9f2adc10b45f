"""Trials of speed decide nothing here: a test's outcome does not depend on how busy the machine is."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def every_layer_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of layer is found twice as fast."""
    trial = pytest.importorskip("fastsedd_kernels.torch.trial", reason="PyTorch is not installed", exc_type=ImportError)
    monkeypatch.setattr(trial, "gain", lambda *calls: 2.0)
