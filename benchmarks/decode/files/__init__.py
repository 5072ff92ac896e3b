"""Video files of every kind, made by code: each frame carries its number, so a reader can be checked."""
