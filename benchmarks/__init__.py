"""Measurements of blip3v: run from the repository root, see README.md."""
