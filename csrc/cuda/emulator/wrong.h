// Kernels for the emulator's own tests: some right, some wrong on purpose. In the module of the tests only.
#pragma once
#include <pybind11/pybind11.h>

namespace pcf {

void bind_wrong(pybind11::module_& m);
void bind_wrong_global(pybind11::module_& m);

} // namespace pcf
