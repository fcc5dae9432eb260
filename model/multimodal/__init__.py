"""Multimodal LLMs of table 1, which hear or see the sentence themselves: Qwen2-Audio and LLaVA-NeXT."""
