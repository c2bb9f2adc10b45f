"""The annotated architecture: network and reference."""
