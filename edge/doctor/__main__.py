"""Run one check in this process: `python -m edge.doctor NAME [SETTINGS]`."""

import sys

from edge.doctor.runner import check_process

if __name__ == "__main__":
    check_process(sys.argv[1:])
