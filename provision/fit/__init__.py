"""Does a model fit: weights, key-value cache and what an engine takes beside them, on the devices of one host. Pure; nothing is downloaded."""

from provision.fit.answer import Fit, fit
from provision.fit.asked import Asked, Room, asked_of
from provision.fit.changes import changes
from provision.fit.shape import Shape, shape_of
from provision.fit.split import tensor_sizes

__all__ = ["Asked", "Fit", "Room", "Shape", "asked_of", "changes", "fit", "shape_of", "tensor_sizes"]
