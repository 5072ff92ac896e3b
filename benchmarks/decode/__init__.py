"""Decoding of video files."""
