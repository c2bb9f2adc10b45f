"""Lou et al.'s transformer and its descendants: network and reference."""
