"""Operators: one public function each, several backends. `blip3v.ops.registry.OPS` lists them all."""

from blip3v.ops.registry import use_backend

__all__ = ["use_backend"]
