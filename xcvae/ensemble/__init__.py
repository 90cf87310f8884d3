"""Sampling and hand-over: members, post-processing, stores, catalogs, augmentation."""
