"""Texts and images as vectors."""

from penstock.search.encoding.batching import QueryEncoder
from penstock.search.encoding.encoder import Encoder, ImageEncoder, Vectors
from penstock.search.encoding.opening import open_encoder

__all__ = ["Encoder", "ImageEncoder", "QueryEncoder", "Vectors", "open_encoder"]
