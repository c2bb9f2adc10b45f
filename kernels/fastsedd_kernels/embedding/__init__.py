"""Rows of a table, gathered."""
