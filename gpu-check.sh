#!/bin/sh
# Check everything that needs an NVIDIA GPU, also on a machine without internet.
#
#   gpu-check.sh pack FOLDER [PYTHON]   with internet: put the project and the wheels that
#                                       it needs into FOLDER; PYTHON of the GPU machine,
#                                       such as 3.10 or 3.12 (PLATFORM=aarch64 for Jetson)
#   gpu-check.sh [REPORT]               on the GPU machine, in that folder or in the
#                                       project: the suite of every engine, the runtime,
#                                       building, parity and speed; writes REPORT
#
# TensorRT is the machine's own (JetPack, or NVIDIA's packages), as is its driver. pycuda is
# built with the machine's CUDA toolkit, or where there is none for a driver of CUDA 13.
set -eu
cd "$(dirname "$0")"

if [ "${1:-}" = pack ]; then
	folder=$2
	python=${3:-3.12}
	machine=${PLATFORM:-x86_64}
	mkdir -p "$folder/wheels"
	git archive HEAD | tar x -C "$folder"
	platforms=""
	for glibc in 39 38 35 34 31 28 27 17; do
		platforms="$platforms --platform manylinux_2_${glibc}_$machine"
	done
	pack() {
		python3 -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
			--python-version "$python" --implementation cp $platforms \
			--platform "manylinux2014_$machine" --dest "$folder/wheels" "$@"
	}
	pack click msgspec 'numpy>=2.0,<2.3' onnx onnxruntime opencv-python-headless \
		paho-mqtt rich tomli-w tomli pytest pytest-timeout hypothesis jsonschema \
		setuptools wheel pytools siphash24 platformdirs mako
	pack --no-deps nvidia-cuda-runtime==13.0.96 nvidia-cuda-profiler-api==13.0.85
	python3 -m pip download --quiet --disable-pip-version-check --no-deps \
		--no-binary pycuda --dest "$folder/wheels" pycuda==2026.1
	echo "packed into $folder: copy it to the GPU machine and run ./gpu-check.sh there"
	exit 0
fi

report=${1:-gpu-report.md}
venv=.venv-gpu
python=${PYTHON:-python3}
if [ ! -e "$venv/.ready" ]; then
	"$python" -m venv --system-site-packages "$venv"
	pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
	from=""
	[ -d wheels ] && from="--no-index --find-links wheels"
	$pip install $from setuptools wheel "numpy>=2.0,<2.3" pytools siphash24 platformdirs mako
	PATH=/usr/local/cuda/bin:$PATH $pip install $from --no-build-isolation pycuda ||
		PIP_NO_INDEX=${from:+1} PIP_FIND_LINKS=${from:+wheels} ./install-pycuda.sh "$venv"
	$pip install $from onnx pytest pytest-timeout hypothesis jsonschema
	$pip install $from click msgspec onnxruntime opencv-python-headless paho-mqtt rich \
		tomli-w
	$pip install $from --no-build-isolation --no-deps --editable .
	touch "$venv/.ready"
fi
"$venv/bin/python" -m pytest -q -rs tests/tensorrt tests/edge/test_engines.py
"$venv/bin/hemascope" build
bundles=""
for bundle in bundles/*/; do
	[ -e "$bundle/bundle.json" ] && bundles="$bundles --bundle $bundle"
done
"$venv/bin/hemascope" bench --engine tensorrt $bundles --out "$report"
echo "report: $report"
