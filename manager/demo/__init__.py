"""Tiny models with random weights in real layouts, for the demo and the tests."""

from .tiny import DEMO_MODELS, make_demo_model

__all__ = ["DEMO_MODELS", "make_demo_model"]
