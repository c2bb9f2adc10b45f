"""GELU, SiLU and the exponential."""
