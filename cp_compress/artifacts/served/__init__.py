"""How is a language model asked that a server runs?"""
