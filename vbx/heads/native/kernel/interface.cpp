#include "interface.h"

#include "trainer.hpp"

using vbx::Run;
using vbx::Trainer;

extern "C" {

const char* vbx_path(void) { return vbx::kPath; }

const char* vbx_best(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "portable";
}

void* vbx_open(const VbxRun* run, const VbxLayer* layers, const VbxTask* tasks, const void* numbers) {
  try {
    Trainer* made;
    if (run->is_double)
      made = new Run<double>(*run, layers, tasks, static_cast<const double*>(numbers));
    else
      made = new Run<float>(*run, layers, tasks, static_cast<const float*>(numbers));
    return made;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void vbx_close(void* run) { delete static_cast<Trainer*>(run); }

void vbx_train(void* run, const VbxSplit* split, const VbxShare* shares, const int64_t* order, int64_t steps_before,
               const uint32_t* words) {
  static_cast<Trainer*>(run)->train(*split, shares, {order, steps_before, words});
}
void vbx_predict(void* run, const VbxSplit* split, void* const* outputs) {
  static_cast<Trainer*>(run)->predict(*split, outputs);
}
void vbx_numbers(void* run, void* numbers) { static_cast<Trainer*>(run)->numbers(numbers); }
}
