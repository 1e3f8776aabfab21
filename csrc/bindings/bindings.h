// The parts of the Python module octavo._native, and what they have in common.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <span>
#include <string>

#include "kernels/tables/attention.h"
#include "weights/encoding.h"

namespace octavo {

template <typename T, int DIMS = 1>
using Array = nanobind::ndarray<T, nanobind::ndim<DIMS>, nanobind::c_contig, nanobind::device::cpu>;

template <typename T>
std::span<T> span(const Array<T>& array) {
    return {array.data(), array.shape(0)};
}

// By the names that Python has for them. Throw std::invalid_argument for others.
Encoding encoding_of(const std::string& name);
KVType kv_type_of(const std::string& dtype);

void bind_program(nanobind::module_& module);
void bind_roofline(nanobind::module_& module);
void bind_rounding(nanobind::module_& module);
void bind_sampling(nanobind::module_& module);

}  // namespace octavo
