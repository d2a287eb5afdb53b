#include "kernel.h"

namespace rebnn {

#if defined(REBNN_X86)
const Kernel* const kKernels[] = {&kAvx512Wide, &kAvx512, &kAvx2, &kGeneric};
#elif defined(REBNN_NEON)
const Kernel* const kKernels[] = {&kNeon, &kGeneric};
#else
const Kernel* const kKernels[] = {&kGeneric};
#endif
const int32_t kKernelCount = sizeof(kKernels) / sizeof(kKernels[0]);

}  // namespace rebnn
