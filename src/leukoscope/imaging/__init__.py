"""Pixels: safe decoding, preprocessing, segmentation and image quality.

An ``image`` is (H, W, 3) uint8 RGB, a mask (H, W) bool, unless a function says otherwise.
"""
