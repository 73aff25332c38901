"""`python -m vt_course.cli`, which torchrun starts."""

import sys

from vt_course.cli import main

if __name__ == "__main__":
    sys.exit(main())
