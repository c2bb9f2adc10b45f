"""The transformer of GPT-2 without a causal mask: network and reference."""
