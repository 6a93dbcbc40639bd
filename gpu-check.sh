#!/bin/sh
# Check everything that needs an NVIDIA GPU, also on a machine without internet.
#
#   gpu-check.sh pack FOLDER [PYTHON]   with internet: put the project and the wheels that
#                                       it needs into FOLDER; PYTHON of the GPU machine,
#                                       such as 3.10 or 3.12 (PLATFORM=aarch64 for Jetson)
#   gpu-check.sh [REPORT]               on the GPU machine, in that folder or in the
#                                       project: the suite of every engine, the runtime,
#                                       building, parity and speed; writes REPORT
#                                       and REPORT.tests, also where something fails
#
# TensorRT is the machine's own (JetPack, or NVIDIA's packages), as is its driver. pycuda is
# built with the machine's CUDA toolkit, or where there is none for a driver of CUDA 13.
set -eu

if [ "${1:-}" = pack ]; then
	mkdir -p "$2"
	folder=$(cd "$2" && pwd)
	cd "$(dirname "$0")"
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
	# pip asks this Python, not that one, which of them a package needs: all are named.
	pack 'click>=8.1' 'msgspec>=0.19' 'numpy>=2.0,<2.3' onnx 'onnxruntime>=1.20' \
		'opencv-python-headless>=4.11' 'paho-mqtt>=2.1' 'rich>=13.7' 'tomli-w>=1.0' \
		'tomli>=2.0' 'pytest>=8.3' pytest-timeout hypothesis jsonschema exceptiongroup \
		typing-extensions pip 'setuptools>=77' wheel pytools siphash24 platformdirs mako
	pack --no-deps nvidia-cuda-runtime==13.0.96 nvidia-cuda-profiler-api==13.0.85
	python3 -m pip download --quiet --disable-pip-version-check --no-deps \
		--no-binary pycuda --dest "$folder/wheels" pycuda==2026.1
	echo "packed into $folder: copy it to the GPU machine and run ./gpu-check.sh there"
	exit 0
fi

cd "$(dirname "$0")"
report=${1:-gpu-report.md}
venv=.venv-gpu
python=${PYTHON:-python3}
if [ ! -e "$venv/.ready" ]; then
	"$python" -m venv --system-site-packages "$venv"
	pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
	from=""
	[ -d wheels ] && from="--no-index --find-links wheels"
	$pip install $from --upgrade pip 'setuptools>=77' wheel
	$pip install $from 'numpy>=2.0,<2.3' pytools siphash24 platformdirs mako
	PATH=/usr/local/cuda/bin:$PATH $pip install $from --no-build-isolation pycuda ||
		PIP_NO_INDEX=${from:+1} PIP_FIND_LINKS=${from:+wheels} ./install-pycuda.sh "$venv"
	$pip install $from onnx 'pytest>=8.3' pytest-timeout hypothesis jsonschema
	$pip install $from 'click>=8.1' 'msgspec>=0.19' 'onnxruntime>=1.20' \
		'opencv-python-headless>=4.11' 'paho-mqtt>=2.1' 'rich>=13.7' 'tomli-w>=1.0' \
		'tomli>=2.0'
	$pip install $from --no-build-isolation --no-deps --editable .
	touch "$venv/.ready"
fi
failed=0
"$venv/bin/python" -m pytest -q -rs tests/tensorrt tests/edge/engines/test_engines.py \
	>"$report.tests" 2>&1 || failed=1
tail -n 20 "$report.tests"
"$venv/bin/hemascope" build || failed=1
bundles="--bundle edge/bundles/inception-cells4"
for bundle in bundles/*/; do
	grep -q '"task": "location"' "$bundle/bundle.json" 2>/dev/null && continue
	[ -e "$bundle/bundle.json" ] && bundles="$bundles --bundle $bundle"
done
"$venv/bin/hemascope" bench --engine tensorrt $bundles --out "$report" || failed=1
echo "report: $report, and what the tests said: $report.tests"
exit $failed
