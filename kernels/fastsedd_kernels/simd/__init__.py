"""Vectors in LLVM IR, the vocabulary of the kernels."""
