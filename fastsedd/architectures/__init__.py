"""Architectures: what each kind of model is. No kernel, no file, no noise."""
