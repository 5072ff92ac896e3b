// Overlay: canonical_warp_idx() and its kin return 0 on a host. Their device branch is plain C++: take that.
#pragma once
#include <cutlass/detail/helper_macros.hpp>
#define __CUDA_ARCH__ 900
#include_next <cutlass/cutlass.h>
#undef __CUDA_ARCH__
