"""The first cell of an edition for Colab, Kaggle or Binder: is everything there, and how does one keep the work?"""

import os
import sys
from importlib.metadata import version

from vt_course import CourseError, __version__, own_root
from vt_course.data.synthetic import SMALLEST, render, rendered

# Packages that a host may import before the first cell, and that the course may need in a newer version.
EARLY = {"matplotlib": "matplotlib", "numpy": "numpy", "PIL": "pillow"}
HOSTS = {  # a variable that only this host sets: (the host, how to keep the work)
    "COLAB_RELEASE_TAG": ("Colab", "File > Save a copy in Drive"),
    "KAGGLE_KERNEL_RUN_TYPE": ("Kaggle", "Save Version"),
    "BINDER_SERVICE_HOST": ("Binder", "File > Download"),
}


def ready(tag: str) -> None:
    """Render the fewest clips that the notebooks take, unless clips are there, and print how to keep the work.

    tag: of the edition, such as "v0.3.0". Raises `CourseError` where another version of the course is installed, and
    where the session runs an older version of a package than the installed one, until it is restarted.
    """
    if tag != f"v{__version__}":
        raise CourseError(
            f"this notebook is of {tag}, and vt_course {__version__} is installed: take the notebook of that release, "
            "or uninstall vt-course and run this cell again"
        )
    old = [package for module, package in EARLY.items() if imported(module) not in (None, version(package))]
    if old:
        raise CourseError(
            f"this session runs an older {' and '.join(old)} than the one that is installed now: restart the session "
            "and run this cell again, which fetches nothing twice"
        )
    if not rendered("train"):
        render(clips=SMALLEST, progress=False)
    print(f"✓ vt_course {__version__}, torch {version('torch')}, clips in {rendered('train')}")
    host, how = next((told for variable, told in HOSTS.items() if variable in os.environ), (None, None))
    if host:
        print(f"To keep your work on {host}: {how}. {own_root()}, with clips and progress, ends with the session.")
    else:
        print("Your work is kept where you save this notebook.")


def imported(module: str) -> str | None:
    """The version of a package that this session has imported; None if it has not."""
    return getattr(sys.modules.get(module), "__version__", None)
