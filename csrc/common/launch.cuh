// The one way to start a kernel: it asks for the dynamic shared memory and turns a refusal into an exception.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "common/errors.h"

namespace blip3v {

// grid, block: as in CUDA. shared_bytes: dynamic shared memory per block, over 48 KiB too.
// Launch errors throw here; errors while the kernel runs show at the next synchronization.
template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Args&&... args) {
  constexpr std::size_t kNoOptInNeeded = 48 * 1024;
  if (shared_bytes > kNoOptInNeeded) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
          std::string(name) + ": shared memory");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, Params(args)...), name);
}

}  // namespace blip3v
