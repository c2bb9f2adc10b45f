"""The transformer of Qwen2, Qwen3 and Llama: network and reference."""
