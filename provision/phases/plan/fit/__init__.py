"""Whether a model fits on the devices of one host: weights, key-value cache and the engine's overhead. Nothing is downloaded."""

from provision.phases.plan.fit.alternatives import alternatives
from provision.phases.plan.fit.result import Fit, fit
from provision.phases.plan.fit.serving_request import DeviceBudget, ServingRequest, serving_request_of
from provision.phases.plan.fit.shape import Shape, shape_of
from provision.phases.plan.fit.split import tensor_sizes

__all__ = [
    "DeviceBudget",
    "Fit",
    "ServingRequest",
    "Shape",
    "alternatives",
    "fit",
    "serving_request_of",
    "shape_of",
    "tensor_sizes",
]
