// How many rows are few: the one tuned number that the host chooses by.
#pragma once

#include "feed_forward/params.h"

namespace blip3v::feed_forward {

// At most so many rows count as few: two videos of 640 tokens. With more, larger tiles fill the machine and a
// block has several of them.
constexpr int kFewRows = 1280;

inline Rows rows_of(Sizes const& sizes) {
  return sizes.rows <= kFewRows ? Rows::kFew : Rows::kMany;
}

}  // namespace blip3v::feed_forward
