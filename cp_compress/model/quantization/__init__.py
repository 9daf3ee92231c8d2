"""To which numbers are weights and activations rounded, and how are the ranges found?"""
