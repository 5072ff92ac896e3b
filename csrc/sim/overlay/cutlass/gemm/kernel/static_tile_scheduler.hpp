// Overlay: the device branch, which reads blockIdx, is plain C++: take that. What it includes comes first, so
// that nothing else is compiled with __CUDA_ARCH__.
#pragma once
#include <cutlass/fast_math.h>
#include <cutlass/gemm/kernel/tile_scheduler_params.h>

#include <cute/arch/cluster_sm90.hpp>
#include <cute/layout.hpp>
#include <cute/tensor.hpp>
#include <cutlass/gemm_coord.hpp>
#include <cutlass/kernel_hardware_info.hpp>
#include <cutlass/pipeline/pipeline.hpp>
#define __CUDA_ARCH__ 900
#include_next <cutlass/gemm/kernel/static_tile_scheduler.hpp>
#undef __CUDA_ARCH__
