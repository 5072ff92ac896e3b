#include "common/tensor.h"

#include <limits>

#include "common/errors.h"

namespace blip3v {
namespace {

std::string text(const std::vector<std::int64_t>& values) {
  std::string out = "[";
  for (std::size_t i = 0; i < values.size(); ++i) out += (i ? ", " : "") + std::to_string(values[i]);
  return out + "]";
}

}  // namespace

std::int64_t Tensor::elements() const {
  std::int64_t count = 1;
  for (std::int64_t size : sizes) count *= size;
  return count;
}

void TensorCheck::refuse(const std::string& what, const std::string& got, const std::string& need) const {
  fail(op_ + ": " + what + " (got " + got + ", need " + need + ")");
}

void TensorCheck::range(const std::string& what, std::int64_t got, std::int64_t low,
                        std::int64_t high) const {
  if (got < low || got > high) {
    refuse(what, std::to_string(got), std::to_string(low) + " to " + std::to_string(high));
  }
}

void TensorCheck::tensor(const std::string& name, const Tensor& tensor, const std::string& dtype,
                         const std::vector<std::int64_t>& sizes) {
  if (tensor.dtype != dtype) refuse(name + " has the wrong dtype", tensor.dtype, dtype);
  if (tensor.device != device_) refuse(name + " is on the wrong device", tensor.device, device_);
  if (tensor.sizes != sizes) refuse(name + " has the wrong shape", text(tensor.sizes), text(sizes));
  if (tensor.strides.size() != sizes.size()) {
    refuse(name + " has strides for another number of dimensions", text(tensor.strides), text(sizes));
  }
  for (std::int64_t size : sizes)
    range(name + " is too large for this kernel", size, 0, std::numeric_limits<int>::max());
  if (device_index_ < 0) {
    device_index_ = tensor.device_index;
    first_ = name;
  } else if (tensor.device_index != device_index_) {
    refuse(name + " is on another device than " + first_, std::to_string(tensor.device_index),
           std::to_string(device_index_));
  }
  if (tensor.elements() && !tensor.data) refuse(name + " has no memory", "a null pointer", "an address");
}

void TensorCheck::contiguous(const std::string& name, const Tensor& tensor) const {
  std::int64_t expected = 1;
  for (std::size_t i = tensor.sizes.size(); i-- > 0;) {
    if (tensor.sizes[i] != 1 && tensor.strides[i] != expected && tensor.elements()) {
      refuse(name + " is not contiguous", "strides " + text(tensor.strides), "a call of .contiguous()");
    }
    expected *= tensor.sizes[i];
  }
}

void TensorCheck::aligned_rows(const std::string& name, const Tensor& tensor, int element_bytes) const {
  constexpr int kBytes = 16;
  constexpr std::int64_t kLargest = std::int64_t(1) << 40;  // what a TMA descriptor holds, in bytes
  if (!tensor.elements()) return;
  if (tensor.data % kBytes) {
    refuse(name + " starts at an unaligned address", std::to_string(tensor.data % kBytes) + " bytes past 16",
           "an address divisible by 16");
  }
  for (std::size_t i = 0; i < tensor.sizes.size(); ++i) {
    if (tensor.sizes[i] == 1) continue;
    const std::int64_t stride = tensor.strides[i];
    if (i + 1 == tensor.sizes.size()) {
      if (stride != 1)
        refuse(name + " has a strided last dimension", std::to_string(stride), "1: call .contiguous()");
      continue;
    }
    const std::int64_t bytes = stride * element_bytes;
    if (stride <= 0 || bytes % kBytes || bytes >= kLargest) {
      refuse(name + " has strides that TMA cannot take", text(tensor.strides),
             "positive multiples of 16 bytes: call .contiguous()");
    }
  }
}

}  // namespace blip3v
