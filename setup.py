"""The packages, and a file for the interpreter's start; everything else stands in pyproject.toml.

Packages are those that are found, and configs/, which a wheel carries as ``qa_lightning.configs``: in pyproject.toml a
package's folder has no second name. ``qa_lightning_restore.pth`` belongs beside the packages, where setuptools puts no
files: its line does nothing unless the environment asks for it (see docs/answering.md). An editable install leaves it
out.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

AT_START = "qa_lightning_restore.pth"


class BuildWithStart(build_py):
    """Builds the packages, and puts the file for the interpreter's start beside them."""

    def run(self) -> None:
        """Build the packages, then copy the file."""
        super().run()
        if not self.editable_mode:
            self.copy_file(AT_START, str(Path(self.build_lib) / AT_START))

    def get_source_files(self) -> list[str]:
        """What a source distribution needs to hold."""
        return [*super().get_source_files(), AT_START]


setup(
    packages=[*find_packages(include=["qa_lightning*"]), "qa_lightning.configs"],
    package_dir={"qa_lightning.configs": "configs"},
    cmdclass={"build_py": BuildWithStart},
)
