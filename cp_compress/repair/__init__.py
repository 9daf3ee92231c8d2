"""How is a compressed model, or one that is fed compressed data, brought back towards its reference?"""
