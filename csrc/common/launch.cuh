// The one way to start a kernel, and the one way for a kernel to get its shared memory. With nvcc a launch
// goes to the GPU; in the build for csrc/sim it runs on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>

#include "common/errors.h"

#ifdef BLIP3V_SIM
#include <tuple>

#include "sim/sim.h"
#endif

namespace blip3v {

struct LaunchShape {
  dim3 grid{1, 1, 1};            // in blocks, a multiple of the cluster
  dim3 block{1, 1, 1};           // in threads
  dim3 cluster{1, 1, 1};         // in blocks, at most 8
  std::size_t shared_bytes = 0;  // dynamic shared memory of a block, over 48 KiB too
};

// The block's dynamic shared memory as a T, 1024-byte aligned as the 128-byte swizzle wants it. A kernel
// takes it once and has no static __shared__ variables, which would push it off its alignment.
template <typename T>
__device__ inline T& dynamic_shared() {
  static_assert(alignof(T) <= 1024, "dynamic shared memory is aligned to 1024 bytes, no further");
#ifdef BLIP3V_SIM
  return *static_cast<T*>(sim::dynamic_shared(sizeof(T)));
#else
  extern __shared__ __align__(1024) unsigned char blip3v_dynamic_shared[];
  return *reinterpret_cast<T*>(blip3v_dynamic_shared);
#endif
}

// Runs kernel(args...) on `stream`; a refusal throws "blip3v: <name>: ...". On a GPU errors while the kernel
// runs show at the next synchronization; in the simulator the kernel has finished, or failed, when this
// returns.
template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream,
            Args&&... args) {
#ifdef BLIP3V_SIM
  (void)stream;
  const std::tuple<Params...> held(std::forward<Args>(args)...);
  const auto dim = [](dim3 d) { return sim::Dim3{d.x, d.y, d.z}; };
  sim::launch(name, {dim(shape.grid), dim(shape.block), dim(shape.cluster), shape.shared_bytes},
              [&] { std::apply(kernel, held); });
#else
  constexpr std::size_t kNoOptInNeeded = 48 * 1024;
  if (shape.shared_bytes > kNoOptInNeeded) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes)),
          std::string(name) + ": " + std::to_string(shape.shared_bytes) + " bytes of shared memory");
  }
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = shape.cluster.x;
  cluster.val.clusterDim.y = shape.cluster.y;
  cluster.val.clusterDim.z = shape.cluster.z;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = shape.cluster.x * shape.cluster.y * shape.cluster.z > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), name);
#endif
}

}  // namespace blip3v
