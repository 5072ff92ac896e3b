#pragma once

#include <string>

namespace blip3v {

// Runs one sm_90a kernel on the device and checks every word it wrote. Returns a line saying what was proven;
// throws when the device cannot run this build's code. Waits for the device.
std::string self_test(int device);

}  // namespace blip3v
