"""Checkpoints: written aside, flushed and renamed; one that is seen is complete. And what happens when not.

What a run does when something goes wrong; each has a test:

- Killed at any moment (kill -9, power cut): it resumes from the newest complete checkpoint and trains on the
  same samples to the same bits as a run that was never killed. What a killed write left is removed by the
  next one.
- The disk is full, or fails otherwise, while a checkpoint is written: what was written is removed, stderr
  says so, training goes on and tries again at the next checkpoint. The last good one is never removed before
  the next is complete. At the end of a run, or when it was told to stop, it is an error that names the last
  good one.
- SIGTERM to any rank: all ranks finish their step, write a checkpoint and exit with 143.
- A loss that is not a number: the run stops and names the last good checkpoint.
- Another number of ranks on resume: weights and moments are resharded to the same values; every rank's random
  generator starts from (seed, step, rank), so dropout differs from that of a run on one number of ranks.
- A worker that dies or hangs, a broken sample: see `blip3v.data.loader`.
"""

from blip3v.train.checkpoint.checkpointer import Checkpointer as Checkpointer
from blip3v.train.checkpoint.folders import write_aside as write_aside
from blip3v.train.checkpoint.loading import load_weights as load_weights
