"""Conditional distributions over the box [−1, 1]^D: monotone maps, layers, bases, flows."""

from .bases import Base, GaussianBase, MixtureBase, UniformBase
from .box import (
    BoxDistribution,
    Draw,
    Gaussian,
    GaussianMixture,
    PointMass,
    Uniform,
    UniformMixture,
    draw,
)
from .flow import (
    ConditionalFlow,
    FlowDistribution,
    box_flow,
    coupling_flow,
    mixture_flow,
    spline_flow,
)
from .layers import ConditionalLayer, Layer, MaskedLinear, MaskedNetwork, ToBox, ToLine, Window
from .univariate import BOX, LINE, Affine, Mapped, Space, Spline, Univariate, wrap

__all__ = [
    "BOX",
    "LINE",
    "Affine",
    "Base",
    "BoxDistribution",
    "ConditionalFlow",
    "ConditionalLayer",
    "Draw",
    "FlowDistribution",
    "Gaussian",
    "GaussianBase",
    "GaussianMixture",
    "Layer",
    "Mapped",
    "MaskedLinear",
    "MaskedNetwork",
    "MixtureBase",
    "PointMass",
    "Space",
    "Spline",
    "ToBox",
    "ToLine",
    "Uniform",
    "UniformBase",
    "UniformMixture",
    "Univariate",
    "Window",
    "box_flow",
    "coupling_flow",
    "draw",
    "mixture_flow",
    "spline_flow",
    "wrap",
]
