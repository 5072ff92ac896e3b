"""From a path to pixels: which frames (sampling), reading them (decode), what the model sees (transforms)."""

from blip3v.video.decode import Video, read_video, select_frames
from blip3v.video.sampling import Sampler, segment_indices, single_frame_indices, uniform_indices
from blip3v.video.transforms import frames_to_pixels

__all__ = [
    "Sampler",
    "Video",
    "frames_to_pixels",
    "read_video",
    "segment_indices",
    "select_frames",
    "single_frame_indices",
    "uniform_indices",
]
