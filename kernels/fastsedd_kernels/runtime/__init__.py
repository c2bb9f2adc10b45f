"""The ground that every kernel stands on: compilation, cache, threads, arrays."""
