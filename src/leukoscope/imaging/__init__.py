"""Pixels: safe decoding, preprocessing, segmentation and image quality."""
