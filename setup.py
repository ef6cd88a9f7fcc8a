"""What setup.cfg cannot say: the top-level folder `configs` is in the package when it is installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lightning_avb*", "datamodules*"]), "lightning_avb.configs"],
    package_dir={"lightning_avb.configs": "configs"},
    package_data={"lightning_avb": ["py.typed"], "lightning_avb.configs": ["**/*.yaml", "**/*.ckpt"]},
)
