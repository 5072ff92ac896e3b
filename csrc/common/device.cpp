#include "common/device.h"

#include "common/errors.h"
#include "common/self_test.h"

namespace blip3v {

#ifdef BLIP3V_WITH_CUDA

int driver_version() {
  int version = 0;
  check(cudaDriverGetVersion(&version), "driver_version");
  if (version == 0) check(cudaErrorInsufficientDriver, "driver_version");
  return version;
}

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice) {
    cudaGetLastError();
    return 0;
  }
  check(status, "device_count");
  return count;
}

std::vector<Device> devices() {
  std::vector<Device> found;
  const int count = device_count();
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, index), "devices");
    found.push_back({index, p.name, p.major, p.minor, static_cast<std::int64_t>(p.totalGlobalMem),
                     p.multiProcessorCount});
  }
  return found;
}

#else

int driver_version() {
  fail_without_cuda("driver_version");
}
int device_count() {
  fail_without_cuda("device_count");
}
std::vector<Device> devices() {
  fail_without_cuda("devices");
}
std::string self_test(int) {
  fail_without_cuda("self_test");
}

#endif

}  // namespace blip3v
