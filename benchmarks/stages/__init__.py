"""One stage of the model at a time, at the widths of the 4B model."""
