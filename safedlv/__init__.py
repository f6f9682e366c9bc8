"""safedlv: a drop-in for ``dlv attach`` that explains a refused attach and never harms the target."""

__version__ = "0.1.0"
