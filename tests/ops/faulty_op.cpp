// blip3v._sim with one op in it, compiled with -DOP=<name of the op>.
#include <pybind11/pybind11.h>

#define JOIN(a, b) a##b
#define REGISTER(op) JOIN(register_, op)

namespace blip3v {
void register_simulator(pybind11::module_& m);
void register_tensor(pybind11::module_& m);
void REGISTER(OP)(pybind11::module_& m);
}  // namespace blip3v

PYBIND11_MODULE(_sim, m) {
  blip3v::register_simulator(m);
  blip3v::register_tensor(m);
  blip3v::REGISTER(OP)(m);
}
