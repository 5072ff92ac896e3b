"""The demo: short clips of moving shapes, made here, and a small BLIP-3-Video that learns to answer about
them.
"""
