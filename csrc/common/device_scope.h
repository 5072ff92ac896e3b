// The device a launch belongs to. In the simulator there is one, the CPU.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "common/errors.h"

namespace blip3v {

#ifdef BLIP3V_SIM

// Few, so that a block goes through several pieces of work even in small tests.
inline int multiprocessors() {
  return 3;
}

#else

// Multiprocessors of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "multiprocessors");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return count;
}

// Makes a device current and gives the caller's back, which torch and others rely on.
class DeviceScope {
 public:
  // op: who asks, for the message of an error.
  DeviceScope(const char* op, int device) {
    check(cudaGetDevice(&previous_), op);
    check(cudaSetDevice(device), op + (": device " + std::to_string(device)));
  }
  ~DeviceScope() { cudaSetDevice(previous_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
};

#endif

}  // namespace blip3v
