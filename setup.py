"""Build entry point; the metadata is in pyproject.toml. Native extensions (csrc/) join here when they land."""

from setuptools import setup

setup()
