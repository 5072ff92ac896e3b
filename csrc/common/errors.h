// How native code refuses: every message starts with "blip3v: " and says what to do.
#pragma once

#include <stdexcept>
#include <string>

#ifdef BLIP3V_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace blip3v {

// Becomes RuntimeError in Python.
[[noreturn]] inline void fail(const std::string& message) {
  throw std::runtime_error("blip3v: " + message);
}

#ifdef BLIP3V_WITH_CUDA
// Throws when a call of the CUDA runtime failed. The error is taken out of the runtime's "last error" slot,
// so that the next check does not report it again.
inline void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) fail(what + ": this machine has no NVIDIA driver");
    fail(what + ": the NVIDIA driver is older than the CUDA runtime of this build: update the driver");
  }
  if (status == cudaErrorNoKernelImageForDevice) {
    fail(what + ": this build holds sm_90a code only, which runs on Hopper GPUs (H100, H200)");
  }
  fail(what + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status));
}
#else
[[noreturn]] inline void fail_without_cuda(const std::string& what) {
  fail(what + ": this build is C++ only: reinstall with BLIP3V_CUDA=1 where nvcc is installed");
}
#endif

}  // namespace blip3v
