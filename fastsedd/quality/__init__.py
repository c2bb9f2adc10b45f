"""Measures of texts that no diffusion model has a say in: words, an n-gram model, distinct n-grams, entropy."""
