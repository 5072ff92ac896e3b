// What the CUDA runtime says about this machine. In a C++-only build each function throws and says so.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace blip3v {

struct Device {
  int index;
  std::string name;
  int major, minor;           // compute capability
  std::int64_t memory_bytes;  // total, not free
  int multiprocessors;
};

int driver_version();  // newest CUDA the driver takes, 1000 * major + 10 * minor
int device_count();    // 0 with a driver and no GPU
std::vector<Device> devices();

}  // namespace blip3v
