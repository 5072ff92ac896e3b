// Which keys a block works through: shared by forward and backward.
#pragma once

#include <algorithm>
#include <cute/config.hpp>
#include <cute/numeric/math.hpp>

#include "common/memory.cuh"
#include "resampler_attention/params.h"
#include "resampler_attention/tiles.h"

namespace blip3v::resampler_attention {

CUTE_HOST_DEVICE constexpr int tiles_of(int rows) {
  return (rows + kTile - 1) / kTile;
}

// The keys of a frame in tiles: first those of the media that count, then those of the latents.
struct Keys {
  int media, latents;  // keys, not tiles

  CUTE_HOST_DEVICE int media_tiles() const { return tiles_of(media); }
  CUTE_HOST_DEVICE int tiles() const { return media_tiles() + tiles_of(latents); }
  CUTE_HOST_DEVICE bool in_media(int tile) const { return tile < media_tiles(); }
  // The tile's number within its own tensor.
  CUTE_HOST_DEVICE int local(int tile) const { return in_media(tile) ? tile : tile - media_tiles(); }
  // Keys of this tile and those after it in the same tensor.
  CUTE_HOST_DEVICE int left(int tile) const {
    return (in_media(tile) ? media : latents) - local(tile) * kTile;
  }
};

// Tiles [first, last) of block `rank` of `splits`.
struct Range {
  int first, last;
  CUTE_HOST_DEVICE Range(int tiles, int rank, int splits)
      : first(tiles * rank / splits), last(tiles * (rank + 1) / splits) {}
};

// One (frame, head), and which of its tiles of keys this block computes.
struct Work {
  int head, frame;
  Keys keys;
  Range tiles;

  CUTE_DEVICE Work(Inputs const& in, int number, int rank, int splits)
      : head(number % in.sizes.heads),
        frame(number / in.sizes.heads),
        keys{media_keys(in, frame), in.sizes.latents},
        tiles(keys.tiles(), rank, splits) {}

  CUTE_DEVICE static int media_keys(Inputs const& in, int frame) {
    if (!in.lengths) return in.sizes.media;
    return cute::max(0, cute::min(load_global(in.lengths + frame), in.sizes.media));
  }
};

// As many blocks per (frame, head) as the GPU has room for, at most one per tile of keys.
inline int choose_splits(Inputs const& in, int multiprocessors) {
  if (in.splits) return in.splits;
  int const tiles = tiles_of(in.sizes.media) + tiles_of(in.sizes.latents);
  int const works = in.sizes.frames * in.sizes.heads;
  return std::max(1, std::min({kMaxSplits, tiles, multiprocessors / works}));
}

}  // namespace blip3v::resampler_attention
