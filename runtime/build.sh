#!/bin/sh
# Build the library and rebnn_run with g++ alone, against the executorch wheel:
#
#   pip install executorch==1.5.1        (or: --no-deps; only its headers and libraries are needed here)
#   sh runtime/build.sh [OUT]            OUT: a folder, default build
#
# EXECUTORCH: folder of the wheel's package, default: where python finds it. CXX: the compiler. CXXFLAGS: more flags.
# REBNN_KERNELS=1: link ExecuTorch's own kernels (10.7 MB), for transformers and what else XNNPACK does not take whole.
# Cross-compiling for aarch64: CXX=aarch64-linux-gnu-g++ ARCH=aarch64 EXECUTORCH_LIB=<lib of the aarch64 wheel>.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-build}
kernels=$here/../rebnn_mm/deploy/kernels
: "${CXX:=g++}" "${CXXFLAGS:=}" "${ARCH:=$(uname -m)}" "${REBNN_KERNELS:=0}"
: "${EXECUTORCH:=$(${PYTHON:-python3} -c 'import importlib.util as u; s = u.find_spec("executorch"); print(list(s.submodule_search_locations)[0] if s else "")')}"
: "${EXECUTORCH_LIB:=$EXECUTORCH/lib}"
if [ ! -e "$EXECUTORCH/include/executorch/runtime/backend/interface.h" ]; then
    echo "build.sh: no ExecuTorch headers in '$EXECUTORCH': pip install executorch==1.5.1, or set EXECUTORCH to the wheel's folder" >&2
    exit 1
fi
mkdir -p "$out"
has() { echo "#include <stdio.h>
#include <$1>
int main() {}" | $CXX $CXXFLAGS -x c++ - -l"$2" -o /dev/null 2> /dev/null; }
images= imagelibs=
if has jpeglib.h jpeg; then images="-DREBNN_JPEG" imagelibs="-ljpeg"; else echo "build.sh: no libjpeg (libjpeg-dev): JPEG files will be refused"; fi
if has png.h png; then images="$images -DREBNN_PNG" imagelibs="$imagelibs -lpng"; else echo "build.sh: no libpng (libpng-dev): PNG files will be refused"; fi

own="-std=c++17 -O2 -g0 -fPIC -pthread -I$here/include -I$kernels -isystem $EXECUTORCH/include -isystem $EXECUTORCH/include/executorch/runtime/core/portable_type/c10 -DC10_USING_CUSTOM_GENERATED_MACROS"
objects=
compile() { # SOURCE FLAGS...
    object=$out/$(basename "$1" .cpp).o
    source=$1
    shift
    # any source may include any header
    if [ ! -e "$object" ] || [ -n "$(find "$here/src" "$here/include" "$kernels" \( -name "$(basename "$source")" -o -name '*.h' -o -name '*.hpp' \) -newer "$object")" ]; then
        $CXX "$@" $CXXFLAGS -c "$source" -o "$object"
    fi
    objects="$objects $object"
}
for source in "$kernels"/*.cpp; do
    case $ARCH:$source in
        x86_64:*isa_avx512.cpp) isa="-mavx512f -mavx512bw -mavx512vpopcntdq" ;;
        x86_64:*isa_avx2.cpp) isa="-mavx2 -mfma" ;;
        x86_64:*isa_generic.cpp | aarch64:*isa_generic.cpp) isa=-O2 ;; # hardly ever runs there; 150 kB less
        *) isa= ;;
    esac
    # contraction would turn a * b + c into a fused one, and results would differ from the training layers'
    compile "$source" -std=c++17 -O3 -g0 -ffp-contract=off -fPIC -fvisibility=hidden -pthread -Wno-maybe-uninitialized $isa
done
for source in blob memory real_conv nearest layer threads delegate json image read_image boxes roi_align regions program network detector c_api; do
    compile "$here/src/$source.cpp" $own $images
done
extra=
if [ "$REBNN_KERNELS" = 1 ]; then extra="-lexecutorch_kernels_optimized"; fi
link="-Wl,-s -L$EXECUTORCH_LIB -Wl,--no-as-needed $extra -lexecutorch_backend_xnnpack -lexecutorch_threadpool -lexecutorch -Wl,--as-needed $imagelibs"
$CXX $CXXFLAGS -shared -pthread $objects -o "$out/librebnn.so" $link -Wl,-rpath,'$ORIGIN' -Wl,-rpath,"$EXECUTORCH_LIB"
$CXX $own $CXXFLAGS "$here/examples/rebnn_run.cpp" -o "$out/rebnn_run" -L"$out" -lrebnn $link -Wl,-rpath,'$ORIGIN' -Wl,-rpath,"$EXECUTORCH_LIB"
echo "built $out/librebnn.so and $out/rebnn_run"
