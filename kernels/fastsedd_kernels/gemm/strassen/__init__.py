"""Strassen's product."""
