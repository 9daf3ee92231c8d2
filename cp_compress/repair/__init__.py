"""How is a compressed model, or one that reads compressed data, brought back towards its reference?"""
