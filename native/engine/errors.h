// What can go wrong inside the engine, as types that the Python border turns into exceptions.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

namespace pintpot {

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
inline std::string
text(const char* format, ...) {
    char buffer[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

// A system call failed; becomes OSError(number, why).
struct SystemError : std::runtime_error {
    SystemError(int error_number, const std::string& what) : std::runtime_error(what), number(error_number) {}
    int number;
};

// A streamed slot cannot be trusted: it ended early or its checksum differs; becomes _native.SlotError.
struct SlotError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The argument of a call or a record cannot be right; becomes ValueError.
inline void need(bool condition, const std::string& why) {
    if (!condition) throw std::invalid_argument(why);
}

}  // namespace pintpot
