// A tensor as Python describes it, and the checks that stand between it and a kernel's pointer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace blip3v {

// An array that somebody else owns. Strides count elements.
struct Tensor {
  std::uintptr_t data;
  std::string dtype;   // "bfloat16", "float16", "float32", "int32" or "uint8"
  std::string device;  // "cuda" or "cpu"
  int device_index;
  std::vector<std::int64_t> sizes, strides;

  std::int64_t elements() const;
};

// Refuses with `blip3v: <op>: <what> (got ..., need ...)`, which becomes RuntimeError in Python.
class TensorCheck {
 public:
  // device: where every tensor must lie, "cuda" or "cpu".
  TensorCheck(const char* op, std::string device) : op_(op), device_(std::move(device)) {}

  [[noreturn]] void refuse(const std::string& what, const std::string& got, const std::string& need) const;

  // A value between bounds that 32-bit kernels can count with.
  void range(const std::string& what, std::int64_t got, std::int64_t low, std::int64_t high) const;

  // dtype, device, shape and a pointer, if there is anything to point at.
  void tensor(const std::string& name, const Tensor& tensor, const std::string& dtype,
              const std::vector<std::int64_t>& sizes);

  // Elements side by side in the order of the dimensions.
  void contiguous(const std::string& name, const Tensor& tensor) const;

  // The last dimension contiguous, everything else at multiples of 16 bytes: what TMA and 16-byte accesses
  // need.
  void aligned_rows(const std::string& name, const Tensor& tensor, int element_bytes) const;

  // The device index that all tensors seen so far share.
  int device_index() const { return device_index_; }

 private:
  std::string op_, device_;
  int device_index_ = -1;
  std::string first_;  // name of the tensor that set the index
};

}  // namespace blip3v
