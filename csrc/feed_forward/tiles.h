// Every tuned number of feed_forward, with its reason. Nothing here has been tuned on a GPU yet.
#pragma once

#include <cuda_runtime.h>

#include <cute/layout.hpp>
#include <type_traits>

#include "feed_forward/params.h"

namespace blip3v::feed_forward {

// How a product is cut: kM x kN outputs per tile, blocks in clusters of kClusterM x kClusterN that share what
// they load by multicast.
//  cooperative: two warpgroups halve the tile; nothing is computed while it is written.
//  ping-pong:   two warpgroups have a tile each; one computes while the other writes, so the epilogue is
//               hidden as long as a block has several tiles.
template <int kM_, int kN_, int kClusterM, int kClusterN, bool kPingpong_>
struct Cut {
  static constexpr int kM = kM_, kN = kN_;
  static constexpr bool kPingpong = kPingpong_;
  using Tile =
      cute::Shape<cute::Int<kM>, cute::Int<kN>, cute::_64>;  // 64 channels are 128 bytes: one swizzle
  // Read and written at a time: the rows of one warpgroup or of both, by 64 columns where they divide the
  // tile.
  using Written = cute::Shape<cute::Int<kPingpong ? 64 : 128>, cute::Int<kN % 64 == 0 ? 64 : 32>>;
  using Cluster = cute::Shape<cute::Int<kClusterM>, cute::Int<kClusterN>, cute::_1>;
  static constexpr int kClusterSize = kClusterM * kClusterN;
  static dim3 cluster() { return {kClusterM, kClusterN, 1}; }
};

// D -> J, two outputs and an exponential per element: an epilogue worth hiding.
//  few:  640 x 4608 are 5 x 24 = 120 tiles of 128 x 192, one wave of 132 multiprocessors, for which nothing
//  can
//        be hidden. Two blocks side by side share their rows of z (5 tiles above one another do not pair).
//  many: 10240 x 4608 are 2880 tiles of 128 x 128, 22 for each multiprocessor; two on top of each other share
//        their rows of w1.
template <Rows kRows>
using Widening =
    std::conditional_t<kRows == Rows::kFew, Cut<128, 192, 1, 2, false>, Cut<128, 128, 2, 1, true>>;

// J -> D, long sums and a light epilogue.
//  few:  640 x 1152 are 45 tiles of 128 x 128, a third of the machine, but 10 x 12 = 120 of 64 x 96. Such
//  small
//        tiles load 177 MB, 88 MB with 2 x 2 of them sharing. Three or four blocks per sum would halve that
//        again, but need atomics or partial sums in memory (9 MB written and read, 4 us).
//  many: 10240 x 1152 are 360 tiles of 256 x 128, 2.7 waves; large because the sums are long.
template <Rows kRows>
using Narrowing =
    std::conditional_t<kRows == Rows::kFew, Cut<64, 96, 2, 2, true>, Cut<256, 128, 2, 1, false>>;

}  // namespace blip3v::feed_forward
