"""The version of the package. A module of its own, so that no module needs to import the package's public names."""

__version__ = "0.1.0"
