// Proves that the code of this build launches on a device: the cheapest kernel that can fail for the reasons
// a real one would (no driver, wrong architecture, no shared memory, no memory).
#include <cstdint>
#include <memory>
#include <vector>

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "common/self_test.h"

namespace blip3v {
namespace {

constexpr int kBlocks = 4;
constexpr int kThreads = 128;
constexpr int kWords = kBlocks * kThreads;
constexpr std::uint32_t kUntouched = 0xffffffffu;

// Knuth's multiplicative hash: neighbouring words differ in many bits, so a shifted write shows.
__host__ __device__ constexpr std::uint32_t pattern(std::uint32_t i) {
  return i * 2654435761u;
}

struct Shared {
  std::uint32_t reversed[kThreads];
};

__global__ void write_pattern(std::uint32_t* words /* [kWords] */) {
  // Set by nvcc for sm_90a alone: without it the words stay untouched and the host reports it.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto& reversed = dynamic_shared<Shared>().reversed;
  const int thread = threadIdx.x;
  const int first = blockIdx.x * kThreads;
  reversed[kThreads - 1 - thread] = pattern(first + thread);
  __syncthreads();
  words[first + thread] = reversed[kThreads - 1 - thread];
#endif
}

struct CudaFree {
  void operator()(void* pointer) const { cudaFree(pointer); }
};

}  // namespace

std::string self_test(int device) {
  DeviceScope scope("self_test", device);
  constexpr std::size_t bytes = kWords * sizeof(std::uint32_t);
  void* raw = nullptr;
  check(cudaMalloc(&raw, bytes), "self_test: allocation");
  std::unique_ptr<void, CudaFree> words(raw);
  check(cudaMemset(words.get(), 0xff, bytes), "self_test: memset");

  launch("self_test", write_pattern, {kBlocks, kThreads, 1, sizeof(Shared)}, nullptr,
         static_cast<std::uint32_t*>(words.get()));

  std::vector<std::uint32_t> host(kWords, kUntouched);
  check(cudaMemcpy(host.data(), words.get(), bytes, cudaMemcpyDeviceToHost), "self_test: kernel");
  for (int i = 0; i < kWords; ++i) {
    if (host[i] != pattern(i)) {
      fail("self_test: device " + std::to_string(device) + " left word " + std::to_string(i) + " of " +
           std::to_string(kWords) + " wrong: the GPU does not run this build's sm_90a code correctly");
    }
  }
  return "an sm_90a kernel wrote " + std::to_string(kWords) + " words correctly";
}

}  // namespace blip3v
