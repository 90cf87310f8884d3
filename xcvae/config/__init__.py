"""The YAML file of a whole run: what can stand in it, how it is read, and the data it names."""

from xcvae.config.data import Parts, open_parts
from xcvae.config.load import load, parse
from xcvae.config.schema import Config

__all__ = ["Config", "Parts", "load", "open_parts", "parse"]
