"""A corpus of videos as tars of sampled frames, so that training decodes nothing: `pack` in `run`."""
