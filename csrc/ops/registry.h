// The ops that the native backend has, by name. An op's file registers itself: nothing lists the files but
// the build.
#pragma once

#include <string>
#include <vector>

#include "executor/program.h"

namespace octavo {

// Makes an instruction ready and adds it to the program. Throws std::invalid_argument where its weights,
// inputs or attributes do not fit each other.
using BuildOp = void (*)(const Instruction& instruction, Program& program);

// At namespace scope in the op's file: `static const RegisteredOp registered("add", build);`
class RegisteredOp {
  public:
    RegisteredOp(const char* name, BuildOp build);
};

// Throws std::invalid_argument for a name that no op has.
BuildOp op_builder(const std::string& name);

// Of all ops, sorted.
std::vector<std::string> op_names();

}  // namespace octavo
