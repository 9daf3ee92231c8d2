"""How does a compressed layer hold its weights, and how does it compute with them?"""
