"""Families, the one loop, augmentation, the two trainers."""
