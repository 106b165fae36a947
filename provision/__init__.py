"""From a bare server to its first verified token: the controller's side."""

__version__ = "0.1.0"
