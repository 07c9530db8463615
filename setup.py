"""The packages: those that are found, and configs/, which a wheel carries as ``qa_lightning.configs``.

Everything else stands in pyproject.toml, where a package's folder has no second name.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["qa_lightning*"]), "qa_lightning.configs"],
    package_dir={"qa_lightning.configs": "configs"},
)
