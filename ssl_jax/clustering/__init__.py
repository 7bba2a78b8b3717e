"""Clusters the representations of a training set, on the devices that hold them."""

from ssl_jax.clustering.kmeans import Clusters, kmeans, nearest, spherical_kmeans

__all__ = ["Clusters", "kmeans", "nearest", "spherical_kmeans"]
