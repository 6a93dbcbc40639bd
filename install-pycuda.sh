#!/bin/sh
# Install pycuda into a virtual environment that has no CUDA toolkit and no driver: the
# tests run it on a stand-in for the driver. Where there is a toolkit, as on a Jetson,
# `pip install hemascope[device]` does it.
#
# usage: install-pycuda.sh VENV [LOCK]   of the versions in LOCK, a file of constraints
#
# The headers come from NVIDIA's wheels. What is linked is a libcuda.so.1 of one function;
# the others are looked up in the driver, or its stand-in, when pycuda is imported.
set -eu
venv=$(cd "$1" && pwd)
pip="$venv/bin/pip --disable-pip-version-check --quiet"
versions=${2:+--constraint $2}
if "$venv/bin/python" -c "import pycuda" 2>/dev/null; then
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "setup: building pycuda without CUDA, this takes two or three minutes"
$pip install --target "$work/headers" --no-deps \
	nvidia-cuda-runtime==13.0.96 nvidia-cuda-profiler-api==13.0.85
$pip install $versions numpy setuptools wheel
root=$(dirname "$(dirname "$(find "$work/headers" -name cuda.h | head -n 1)")")
mkdir "$work/driver" "$work/source"
echo "int cuInit(void) { return 3; }" | gcc -shared -fPIC -x c -Wl,-soname,libcuda.so.1 -o "$work/driver/libcuda.so" -
$pip download $versions --no-deps --no-binary :all: --no-build-isolation \
	--dest "$work" pycuda
tar xzf "$work"/pycuda-*.tar.gz -C "$work/source" --strip 1
cat >"$work/source/siteconf.py" <<PYTHON
BOOST_INC_DIR = []
BOOST_COMPILER = "gcc43"
USE_SHIPPED_BOOST = True
CUDA_TRACE = False
CUDA_ROOT = "$root"
CUDA_ENABLE_GL = False
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ["$work/driver"]
CUDADRV_LIBNAME = ["cuda"]
CXXFLAGS = ["-O1", "-g0"]
PYTHON
$pip install $versions --no-build-isolation "$work/source"
