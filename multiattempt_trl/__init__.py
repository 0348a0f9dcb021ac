"""Multi-attempt RL on TRL: a language model learns from its own failed attempts (arXiv 2503.04808)."""

__version__ = "0.1.0"
