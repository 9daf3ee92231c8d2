"""How does a network learn from coefficients instead of pixels?"""
