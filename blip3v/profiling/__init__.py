"""`blip3v profile`: where the time of an op, a stage or a training step goes.

`request` says what is to be run, `workloads` makes it, `torch_tool`, `ncu` and `nsys` watch it.
"""
