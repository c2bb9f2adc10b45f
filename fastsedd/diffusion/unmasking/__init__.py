"""Samplers of masked language models: quotas, orders of commitment, blocks, parallel decoding."""
