"""BD3-LM's transformer: network and reference."""
