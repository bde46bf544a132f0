#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <stdexcept>

namespace pintpot {
namespace {

constexpr const char* kIsas[] = {"amx", "avx512", "avxvnni", "avx2", "portable"};  // best first

#if defined(__x86_64__)
// Asked of cpuid itself (leaf 7, subleaf 1): older compilers have no name for it.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
}

// Tiles of signed bytes and of bfloat16, and leave of the operating system to keep state for them: it is asked of Linux once, for all
// threads of the process, and costs a thread nothing before its first tile. Where Linux is older, or refuses because some
// thread's stack for signals is too small for that state, there are none.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr unsigned kTiles = 3u << 24 | 1u << 22;  // AMX-TILE, AMX-INT8, AMX-BF16
  constexpr long kAskLeave = 0x1023, kTileData = 18;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & kTiles) != kTiles) return false;
  return syscall(SYS_arch_prctl, kAskLeave, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// __builtin_cpu_supports asks cpuid and, for the registers' state, the operating system (xgetbv).
bool cpu_has(const std::string& isa) {
  if (isa == "portable") return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("f16c");
  if (isa == "avx2") return avx2;
  if (isa == "avxvnni") return avx2 && has_avx_vnni();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  if (isa == "avx512") return avx512;
  if (isa == "amx") {
    static const bool tiles = avx512 && may_use_tiles();
    return tiles;
  }
#endif
  return false;
}

std::string folder() {
  Dl_info info;
  if (!dladdr((void*)&cpu_has, &info)) throw std::runtime_error("cannot tell where pintpot's extension lies");
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

const KernelTable* open(const std::string& isa) {
  const std::string path = folder() + "libpintpot_" + isa + ".so";
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(std::string("the kernels for ") + isa + " cannot be loaded: " + dlerror());
  const auto entry = (pintpot_kernels_fn)dlsym(handle, "pintpot_kernels");
  const KernelTable* table = entry ? entry() : nullptr;
  if (!table || table->abi != kAbiVersion)
    throw std::runtime_error(path + " belongs to another version of pintpot; install it again");
  return table;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const char* isa : kIsas) {
    const std::string path = folder() + "libpintpot_" + isa + ".so";
    if (cpu_has(isa) && access(path.c_str(), R_OK) == 0) names.push_back(isa);
  }
  return names;
}

const KernelTable& kernels_of(const std::string& isa) {
  static std::mutex lock;
  static std::map<std::string, const KernelTable*> loaded;
  if (std::find(std::begin(kIsas), std::end(kIsas), isa) == std::end(kIsas))
    throw std::runtime_error("no instruction set is called '" + isa + "'; there are portable, avx2, avxvnni, avx512 and amx");
  if (!cpu_has(isa)) throw std::runtime_error("this CPU or its operating system does not offer " + isa);
  const std::lock_guard<std::mutex> hold(lock);
  const KernelTable*& table = loaded[isa];
  if (!table) table = open(isa);
  return *table;
}

PackedFormat packed_format(const std::string& name) {
  const size_t plus = name.find('+');
  const std::string base = name.substr(0, plus), count = plus == std::string::npos ? "" : name.substr(plus + 1);
  const bool counts = count.size() - 1 < 6 && count[0] != '0' && count.find_first_not_of("0123456789") == std::string::npos;
  for (int32_t i = 0; i < kNumFormats; ++i) {
    if (base != kFormatNames[i]) continue;
    if (plus == std::string::npos) return {i, 0};
    if (counts && i >= kSym8) return {i, std::stoll(count)};
  }
  throw std::invalid_argument("no packed format is called '" + name + "'");
}

const KernelTable& kernels() {
  static const KernelTable& chosen = []() -> const KernelTable& {
    const char* wanted = getenv("PINTPOT_ISA");
    if (wanted && *wanted) return kernels_of(wanted);
    const std::vector<std::string> names = available_isas();
    if (names.empty()) throw std::runtime_error("no kernels lie beside pintpot's extension; install it again");
    return kernels_of(names.front());
  }();
  return chosen;
}

}  // namespace pintpot
