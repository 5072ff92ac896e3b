// CUDA C++ as a dialect of g++: force-included ahead of every kernel source of the simulator's build.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "sim/sim.h"

namespace blip3v_sim = blip3v::sim;  // for the overlay, which lives in the namespaces of cute and cutlass

// CuTe's host code for TMA exists for CUDA 12 and up only, CUTLASS's kernels for sm_90a only.
#ifndef __CUDACC_VER_MAJOR__
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#endif
#define __CUDA_ARCH_FEAT_SM90_ALL 1
#define CUTLASS_ENABLE_DIRECT_CUDA_DRIVER_CALL 1  // cuTensorMapEncodeTiled of tensor_map.cpp

// Lets declarations in headers compile. Kernels have no static shared memory: it is neither poisoned nor
// checked.
#undef __shared__
#define __shared__ thread_local
#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif

// Plain variables that the scheduler sets: as macros they would break parameters of the same names.
extern const __attribute__((visibility("hidden"))) uint3 threadIdx, blockIdx;
extern const __attribute__((visibility("hidden"))) dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

#include "sim/intrinsics.h"

// What CuTe reaches on a device only, and the overlay does not provide, is a loud failure and not a no-op.
#include <cute/config.hpp>
#undef CUTE_INVALID_CONTROL_PATH
#define CUTE_INVALID_CONTROL_PATH(what) ::blip3v::sim::fail(std::string("not simulated: ") + (what))
